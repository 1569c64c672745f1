//! Requests from a pod, one after another, until it is told to stop: how many had no good answer, and for how long.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;

/// Asks on and on, and leaves the processors to others in between; a line for each answer: when it came by the machine's clock,
/// and its status.
const LOOP: &str = "rm -f /tmp/stop-$1; while [ ! -e /tmp/stop-$1 ]; do \
     status=$(curl --silent --output /dev/null --max-time 2 --header \"x-marker: $3\" --write-out '%{http_code}' \"$2\"); \
     read up idle < /proc/uptime; echo \"$up $status\"; sleep 0.05; done";

/// Requests that are being made. Ended on drop.
#[derive(Debug)]
pub struct Load {
    pod: String,
    name: String,
    child: Child,
    output: BufReader<ChildStdout>,
    /// What it said of its first request.
    first: String,
}

/// What came of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// All requests.
    pub requests: usize,
    /// Those with another status than 200, or none.
    pub failed: usize,
    /// From the last good answer before a failure to the next one, or to the end, at most; in seconds.
    pub longest: f64,
    /// The statuses of those that failed, as they came.
    pub statuses: Vec<String>,
    /// When each was answered, in seconds since the machine started, and with which status.
    pub answers: Vec<(f64, String)>,
}

impl Load {
    /// Begins to ask `url` from a pod that has curl and a shell; `name` is the load's own in that pod. Returns once the first
    /// request is made, so that what is done next is done under load.
    ///
    /// # Errors
    /// kubectl cannot be started, or has no way into the pod.
    pub fn start(cluster: &Cluster, pod: &str, name: &str, url: &str) -> Result<Self> {
        let mut kubectl = cluster.control_plane().kubectl_command();
        kubectl.args(["exec", pod, "--", "sh", "-c", LOOP, "load", name, url]);
        kubectl.arg(mesh_test_harness::PLAINTEXT_MARKER);
        let child = kubectl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.context("start kubectl")?;
        let mut output = BufReader::new(child.stdout.take().context("standard output is piped")?);
        let mut first = String::new();
        output.read_line(&mut first).context("read what a load says")?;
        let load = Self { pod: pod.to_owned(), name: name.to_owned(), child, output, first };
        ensure!(!load.first.is_empty(), "no request was made by {name} in {pod}");
        Ok(load)
    }

    /// Stops, and says what came of it.
    ///
    /// # Errors
    /// The pod cannot be told, or no request was made.
    pub fn stop(mut self, cluster: &Cluster) -> Result<Outcome> {
        cluster.kubectl(&["exec", &self.pod, "--", "touch", &format!("/tmp/stop-{}", self.name)])?;
        let mut said = std::mem::take(&mut self.first);
        self.output.read_to_string(&mut said).context("read what a load says")?;
        Ok(Outcome::read(&said))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Fails if it ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Outcome {
    fn read(said: &str) -> Self {
        let mut outcome = Self::default();
        let (mut good, mut told) = (None, 0);
        for (at, status) in said.lines().filter_map(|line| line.split_once(' ')) {
            let Ok(at) = at.parse::<f64>() else { continue };
            outcome.requests += 1;
            outcome.answers.push((at, status.to_owned()));
            let since = *good.get_or_insert(at);
            let is_good = status == "200";
            if !is_good {
                outcome.failed += 1;
                outcome.statuses.push(status.to_owned());
            }
            let has_failed = outcome.statuses.len() > told;
            if has_failed {
                outcome.longest = outcome.longest.max(at - since);
            }
            if is_good {
                (good, told) = (Some(at), outcome.statuses.len());
            }
        }
        outcome
    }

    /// When an answer with this status came for the first time from then on.
    pub fn first_after(&self, since: f64, status: &str) -> Option<f64> {
        self.answers.iter().find(|(at, answered)| *at >= since && answered == status).map(|(at, _)| *at)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, failed, longest, .. } = self;
        write!(
            formatter,
            "{failed} of {requests} requests failed, the longest time without an answer {longest:.1} s"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_and_timed() {
        let outcome = Outcome::read("1.0 200\n1.1 000\n1.2 503\n1.5 200\n1.6 200\nnonsense\n");
        assert_eq!((outcome.requests, outcome.failed), (5, 2));
        assert!((outcome.longest - 0.5).abs() < 1e-9);
        assert_eq!(outcome.statuses, ["000", "503"]);
        assert_eq!(outcome.first_after(1.2, "200"), Some(1.5));
        assert_eq!(outcome.first_after(1.3, "503"), None);
        assert!((Outcome::read("1.0 000\n2.0 000\n").longest - 1.0).abs() < 1e-9);
    }
}
