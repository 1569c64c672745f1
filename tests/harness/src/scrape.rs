//! Reads metrics: Prometheus text into samples.
//!
//! In: a network namespace and an address, or text. Out: samples that can be summed by name and labels.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::netns::Namespace;

/// Longest time for one scrape.
const LIMIT: Duration = Duration::from_secs(5);

/// Everything that one scrape found.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name of the series.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

/// Requests a path by HTTP/1.1 from inside a namespace: status and body.
///
/// # Errors
/// Nobody listens, or no response comes in time.
pub fn get(netns: &Namespace, address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let text = netns.run(|| {
        let mut stream = TcpStream::connect_timeout(&address, LIMIT).context("connect")?;
        stream.set_read_timeout(Some(LIMIT)).context("set a deadline")?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).context("send")?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).context("receive")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    })?;
    let (head, body) = text.split_once("\r\n\r\n").context("a response has a head")?;
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).context("a status")?;
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return Ok((status, dechunk(body)?));
    }
    Ok((status, body.to_owned()))
}

/// Reads `/metrics`.
///
/// # Errors
/// As [`get`]; or the answer is not 200.
pub fn scrape(netns: &Namespace, address: SocketAddr) -> Result<Metrics> {
    match get(netns, address, "/metrics").with_context(|| format!("scrape {address}"))? {
        (200, body) => Ok(Metrics::parse(&body)),
        (status, body) => bail!("/metrics answered {status}: {body}"),
    }
}

impl Metrics {
    /// Reads the text format. Lines that are no samples are left out.
    pub fn parse(text: &str) -> Self {
        Self { samples: text.lines().filter_map(Sample::parse).collect() }
    }

    /// Every sample.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The sum of the samples of a name that have all these labels; 0 without any.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples
            .iter()
            .filter(|sample| sample.name == name && sample.has(labels))
            .fold(0.0, |sum, sample| sum + sample.value)
    }
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let (series, value) = line.rsplit_once(' ')?;
        let value = value.parse().ok()?;
        let Some((name, labels)) = series.split_once('{') else {
            return Some(Self { name: series.to_owned(), labels: BTreeMap::new(), value });
        };
        let labels = labels.strip_suffix('}')?;
        Some(Self { name: name.to_owned(), labels: parse_labels(labels)?, value })
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(key, value)| self.labels.get(*key).is_some_and(|found| found == value))
    }
}

/// `a="1",b="x\"y"`.
fn parse_labels(mut text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (key, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.insert(key.to_owned(), value);
        text = rest[end + 1..].trim_start_matches(',');
    }
    Some(labels)
}

fn dechunk(mut text: &str) -> Result<String> {
    let mut body = String::new();
    loop {
        let (size, rest) = text.split_once("\r\n").context("a chunk has a size")?;
        let size = usize::from_str_radix(size, 16).context("a size is hexadecimal")?;
        if size == 0 {
            return Ok(body);
        }
        body.push_str(rest.get(..size).context("a chunk is whole")?);
        text = rest.get(size + 2..).context("a chunk ends a line")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_their_labels() {
        let metrics = Metrics::parse(
            "# TYPE a counter\na{x=\"1\",y=\"q\\\"{},\"} 2\na{x=\"1\",y=\"r\"} 3\na{x=\"2\"} 4\nb 5\n",
        );
        assert_eq!(metrics.sum("a", &[("x", "1")]), 5.0);
        assert_eq!(metrics.sum("a", &[("y", "q\"{},")]), 2.0);
        assert_eq!(metrics.sum("b", &[]), 5.0);
        assert_eq!(metrics.sum("c", &[]), 0.0);
    }
}
