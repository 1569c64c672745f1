//! The hold of pods until the agent's programs stand: a chained plugin of the container network interface (CNI 1.1.0).
//!
//! In: what a container runtime tells a plugin, in its environment and on standard input. Out: the result of the plugins
//! before it, as soon as an enrolled pod can no longer send anything in the clear; or an error, upon which the runtime
//! tries again. Changes nothing, of the pod or of the node. After a reboot the kubelet starts pods in any order, the agent
//! among them: nothing else keeps a pod from being first.

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::kernel;
use crate::system::print_line;

/// What the plugin is called: its file, and `type` in a network's configuration.
pub const PLUGIN: &str = "nodemesh-hold";
/// The versions whose results are passed on as they are.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Between two looks of a bounded wait: nobody tells of a file system's first folder.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Codes of errors (CNI specification, section "Error").
const INCOMPATIBLE: u32 = 1;
const BAD_VARIABLE: u32 = 4;
const BAD_CONTENT: u32 = 6;
const BAD_NETWORK: u32 = 7;
const TRY_AGAIN: u32 = 11;

/// The plugin's own part of a network's configuration, and what the runtime puts in.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Network {
    cni_version: String,
    /// `--pin-dir` of the agent.
    pin_dir: PathBuf,
    /// `--root-namespace` of the agent: the mesh's own pods are not held, for agents need what they bring.
    root_namespace: String,
    /// How long a pod is held before the runtime is told to try again.
    #[serde(default = "wait_seconds")]
    wait_seconds: u64,
    prev_result: Option<Value>,
}

/// What the runtime is told instead of a result.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    code: u32,
    message: &'static str,
    details: String,
}

/// Whether a program that was started under this name is the plugin.
pub fn is_plugin(program: Option<&std::ffi::OsStr>) -> bool {
    program.and_then(|path| std::path::Path::new(path).file_name()).is_some_and(|name| name == PLUGIN)
}

/// What the runtime says in the environment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call<'a> {
    /// `CNI_COMMAND`
    pub command: Option<&'a str>,
    /// `CNI_ARGS`: of a pod its namespace and name, as in `K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a`.
    pub arguments: Option<&'a str>,
}

/// Answers the runtime.
pub fn cni(call: Call<'_>) -> ExitCode {
    let mut input = String::new();
    // What cannot be read is no configuration, and is refused as such.
    let _ = io::stdin().read_to_string(&mut input);
    match answer(call, &input, kernel::stands) {
        Ok(Some(result)) => print_line(result),
        Ok(None) => {}
        Err(Refusal { code, message, details }) => {
            let version = serde_json::from_str::<Value>(&input).ok();
            let version = version.map_or(json!(VERSIONS[0]), |network| network["cniVersion"].clone());
            print_line(json!({ "cniVersion": version, "code": code, "msg": message, "details": details }));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn answer(
    call: Call<'_>,
    input: &str,
    stands: impl Fn(&std::path::Path) -> bool,
) -> Result<Option<Value>, Refusal> {
    match call.command {
        Some("VERSION") => Ok(Some(json!({ "cniVersion": "1.1.0", "supportedVersions": VERSIONS }))),
        Some("ADD") => add(call, input, stands).map(Some),
        // Nothing was made that could be missing, or be taken away.
        Some("DEL" | "CHECK" | "GC" | "STATUS") => Ok(None),
        other => Err(Refusal {
            code: BAD_VARIABLE,
            message: "CNI_COMMAND is none of the specification's",
            details: other.unwrap_or_default().to_owned(),
        }),
    }
}

fn add(call: Call<'_>, input: &str, stands: impl Fn(&std::path::Path) -> bool) -> Result<Value, Refusal> {
    let network: Network = serde_json::from_str(input).map_err(|error| Refusal {
        code: BAD_CONTENT,
        message: "the network's configuration cannot be read",
        details: error.to_string(),
    })?;
    if !VERSIONS.contains(&&*network.cni_version) {
        let details = format!("{}, not one of {}", network.cni_version, VERSIONS.join(", "));
        return Err(Refusal { code: INCOMPATIBLE, message: "cniVersion is not known", details });
    }
    let result = network.prev_result.ok_or_else(|| Refusal {
        code: BAD_NETWORK,
        message: "there is no result of a plugin before",
        details: format!("{PLUGIN} makes no network: it stands in a list behind what does"),
    })?;
    let deadline = Instant::now() + Duration::from_secs(network.wait_seconds);
    let is_exempt = call.namespace() == Some(&*network.root_namespace);
    while !is_exempt && !stands(&network.pin_dir) {
        if Instant::now() >= deadline {
            return Err(Refusal {
                code: TRY_AGAIN,
                message: "the node's agent of Nodemesh has not attached its programs",
                details: format!(
                    "nothing that refuses connects is pinned at {}: see why the agent does not run; where the mesh is \
                     gone, run mesh-node hold remove",
                    network.pin_dir.display()
                ),
            });
        }
        // Between two looks of a bounded wait: nobody tells of a pinned program.
        thread::sleep(LOOK_EVERY);
    }
    Ok(result)
}

impl<'a> Call<'a> {
    /// Of the pod that is about to begin.
    fn namespace(self) -> Option<&'a str> {
        self.arguments?.split(';').find_map(|argument| argument.strip_prefix("K8S_POD_NAMESPACE="))
    }
}

/// A good part of what kubelets give a runtime for a sandbox (`runtimeRequestTimeout`, 2 min).
fn wait_seconds() -> u64 {
    30
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;

    use super::*;

    const NETWORK: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "type": "nodemesh-hold", "pinDir": "/pins",
        "rootNamespace": "nodemesh-system",
        "waitSeconds": 0, "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.9/24"}]}}"#;

    fn add_to(namespace: &str) -> Call<'_> {
        let arguments = match namespace {
            "shop" => "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=nodemesh-system",
            _ => "IgnoreUnknown=1;K8S_POD_NAMESPACE=nodemesh-system;K8S_POD_NAME=a",
        };
        Call { command: Some("ADD"), arguments: Some(arguments) }
    }

    #[test]
    fn the_result_of_the_plugins_before_is_passed_on_once_programs_stand() {
        let network = NETWORK.replace(r#""waitSeconds": 0, "#, "");
        let looks = Cell::new(0);
        let stands = |pins: &Path| {
            looks.set(looks.get() + 1);
            pins == Path::new("/pins") && looks.get() == 3
        };
        let result = answer(add_to("shop"), &network, stands).unwrap().unwrap();
        assert_eq!(result["ips"][0]["address"], "10.0.0.9/24");
        assert_eq!(looks.get(), 3);
    }

    #[test]
    fn a_pod_does_not_begin_without_programs() {
        let refusal = answer(add_to("shop"), NETWORK, |_| false).unwrap_err();
        assert_eq!(refusal.code, TRY_AGAIN);
        assert!(refusal.details.contains("/pins"), "{}", refusal.details);
        answer(add_to("nodemesh-system"), NETWORK, |_| false).unwrap();
    }

    #[test]
    fn pods_go_whether_programs_stand_or_not() {
        for command in ["DEL", "CHECK", "GC", "STATUS"] {
            assert_eq!(
                answer(Call { command: Some(command), arguments: None }, NETWORK, |_| false),
                Ok(None)
            );
        }
    }

    #[test]
    fn what_is_not_the_specifications_is_refused_with_its_code() {
        let code = |command, input: &str| {
            answer(Call { command, arguments: None }, input, |_| true).unwrap_err().code
        };
        assert_eq!(code(None, NETWORK), BAD_VARIABLE);
        assert_eq!(code(Some("ADD"), "{"), BAD_CONTENT);
        assert_eq!(code(Some("ADD"), &NETWORK.replace("prevResult", "result")), BAD_NETWORK);
        assert_eq!(code(Some("ADD"), &NETWORK.replace("1.0.0", "0.1.0")), INCOMPATIBLE);
        let version = Call { command: Some("VERSION"), arguments: None };
        let versions = answer(version, "{}", |_| false).unwrap().unwrap();
        assert_eq!(versions["supportedVersions"][4], versions["cniVersion"]);
    }
}
