//! Puts the hold of pods into a node's network configuration, and takes it out.
//!
//! In: the folders of the container runtime's network plugins. Out: the plugin beside the others, and a list of our own that
//! sorts before all others and has the first one's plugins with ours behind. Others' files are never touched: what rewrites
//! its own at every start changes nothing of the hold, and removing the one file takes the hold away.

use std::convert::Infallible;
use std::fs;
use std::future::pending;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use mesh_common::model::NamespacedName;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::cni::PLUGIN;
use crate::args::{HoldArgs, HoldVerb};
use crate::controller::daemon_set::{Fate, OwnDaemonSet};
use crate::system::{AccessError, Stop, SystemError, access, print_line, system};
use crate::telemetry::chain::Chain;

/// Sorts before what people number from `00-`: runtimes take the first.
const LIST: &str = "00-00-nodemesh.conflist";
/// What network configurations end in (libcni, `ConfFiles`).
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];
/// Between two looks at others' files.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why the hold cannot be put in or taken out.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// No plugin makes a network yet.
    #[error("no network is configured in {folder}; install the cluster's network first, or set --cni-conf-dir", folder = folder.display())]
    NoNetwork {
        /// Where was looked.
        folder: PathBuf,
    },
    /// A configuration is not what the specification says.
    #[error("{file} is no network configuration: {reason}", file = file.display())]
    BadNetwork {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Runtimes would take another list than ours.
    #[error("{file} sorts before {LIST}; rename it, or put {{\"type\": \"{PLUGIN}\"}} at its end", file = file.display())]
    First {
        /// The file.
        file: PathBuf,
    },
    /// No runtime, or no signal handler.
    #[error(transparent)]
    System(#[from] SystemError),
    /// A file cannot be read or written.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// Puts the hold in, or takes it out. With `--stay` it does not end until it is told to, follows what others change, and
/// takes the hold out where its own DaemonSet is gone by then.
///
/// # Errors
/// There is no network to stand behind, or a file cannot be read or written.
pub fn hold(args: &HoldArgs) -> Result<ExitCode, HoldError> {
    if args.verb == HoldVerb::Remove {
        take_out(args)?;
        return Ok(ExitCode::SUCCESS);
    }
    replace(&args.cni_bin_dir.join(PLUGIN), 0o755, |new| fs::copy("/proc/self/exe", new).map(drop))?;
    if args.stay {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(system("make a runtime"))?.block_on(stay(args))?;
    } else {
        install(&args.cni_conf_dir, &plugin_of(args)).map(|_| say_it_holds(args))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn stay(args: &HoldArgs) -> Result<(), HoldError> {
    let mut stop = Stop::new()?;
    let name = args.daemon_set.as_ref();
    let own = name.map(|name| OwnDaemonSet::new(NamespacedName::new(&*args.root_namespace, &**name)));
    tokio::select! {
        () = stop.told() => {}
        never = follow(args) => match never {},
        never = look_for(own.as_ref()) => match never {},
    }
    let Some(own) = own else { return Ok(()) };
    match own.fate().await {
        Ok(Fate::Stays) => print_line("the hold stays, for a reboot too"),
        Ok(Fate::Goes) => take_out(args)?,
        Err(error) => eprintln!(
            "{}: whether the hold is being removed is not known, and it stays; mesh-node hold remove takes it out",
            Chain(&error)
        ),
    }
    Ok(())
}

/// Keeps the hold in place, whatever others write.
async fn follow(args: &HoldArgs) -> Infallible {
    let hold = plugin_of(args);
    let mut said = None;
    loop {
        match install(&args.cni_conf_dir, &hold) {
            Ok(true) => say_it_holds(args),
            Ok(false) => said = None,
            Err(error) => {
                let text = Chain(&error).to_string();
                if said.as_ref() != Some(&text) {
                    eprintln!("{text}; looking again every second");
                    said = Some(text);
                }
            }
        }
        // Between two looks: others write their files when they like.
        sleep(LOOK_EVERY).await;
    }
}

async fn look_for(own: Option<&OwnDaemonSet>) -> Infallible {
    let Some(own) = own else { return pending().await };
    let name = own.name();
    let say = |reason: String| {
        eprintln!("the DaemonSet {name} was not seen yet, and the hold stays until it was: {reason}")
    };
    own.look(say).await
}

fn say_it_holds(args: &HoldArgs) {
    let list = args.cni_conf_dir.join(LIST);
    print_line(format_args!("{} is in place: new pods wait for the agent's programs", list.display()));
}

fn take_out(args: &HoldArgs) -> Result<(), HoldError> {
    // First what names the plugin.
    for file in [args.cni_conf_dir.join(LIST), args.cni_bin_dir.join(PLUGIN)] {
        remove(&file)?;
        print_line(format_args!("{} is gone: new pods are held no more", file.display()));
    }
    Ok(())
}

/// Writes our list anew if it is not what it should be; whether it did.
fn install(conf_dir: &Path, hold: &Value) -> Result<bool, HoldError> {
    let list = conf_dir.join(LIST);
    let names = networks(conf_dir)?;
    let Some(first) = names.iter().find(|name| *name != LIST) else {
        // Without a network ours stays: what was taken away may be on its way back.
        return if names.is_empty() {
            Err(HoldError::NoNetwork { folder: conf_dir.to_owned() })
        } else {
            Ok(false)
        };
    };
    let file = conf_dir.join(first);
    if first.as_str() < LIST {
        return Err(HoldError::First { file });
    }
    let text = fs::read_to_string(&file).map_err(access("read", &file))?;
    let wanted = with_hold(&text, hold).map_err(|reason| HoldError::BadNetwork { file, reason })?;
    if fs::read_to_string(&list).is_ok_and(|present| present == wanted) {
        return Ok(false);
    }
    replace(&list, 0o600, |new| fs::write(new, &wanted))?;
    Ok(true)
}

/// PURE. A network's configuration with the hold behind its plugins; a single plugin becomes a list.
fn with_hold(network: &str, hold: &Value) -> Result<String, String> {
    let mut network: Value = serde_json::from_str(network).map_err(|error| error.to_string())?;
    if network["type"].is_string() {
        let (version, name) = (network["cniVersion"].clone(), network["name"].clone());
        network = json!({ "cniVersion": version, "name": name, "plugins": [network] });
    }
    let plugins = network["plugins"].as_array_mut().ok_or("it has neither type nor plugins")?;
    if !plugins.iter().any(|plugin| plugin["type"] == PLUGIN) {
        plugins.push(hold.clone());
    }
    Ok(format!("{network:#}\n"))
}

/// What the plugin is told, each time that it is called.
fn plugin_of(args: &HoldArgs) -> Value {
    json!({ "type": PLUGIN, "pinDir": args.pin_dir, "rootNamespace": args.root_namespace })
}

/// The names of all network configurations, in the order of runtimes.
fn networks(folder: &Path) -> Result<Vec<String>, HoldError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(access("read", folder))?,
    };
    let is_network = |name: &String| {
        Path::new(name)
            .extension()
            .and_then(|ending| ending.to_str())
            .is_some_and(|ending| ENDINGS.contains(&ending))
    };
    let names = entries.map_while(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(is_network).collect();
    names.sort_unstable();
    Ok(names)
}

/// Puts a file in another's place in one step: a runtime never reads half of one.
fn replace(file: &Path, mode: u32, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), HoldError> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(access("make", folder))?;
    // Not an ending of ENDINGS.
    let new = file.with_added_extension("new");
    write(&new).map_err(access("write", &new))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(mode))
        .map_err(access("change the mode of", &new))?;
    Ok(fs::rename(&new, file).map_err(access("replace", file))?)
}

fn remove(file: &Path) -> Result<(), HoldError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(access("remove", file)(error).into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST_OF_OTHERS: &str =
        r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}, {"type": "portmap"}]}"#;

    fn hold_at(pin_dir: &str) -> Value {
        json!({ "type": PLUGIN, "pinDir": pin_dir })
    }

    fn types(network: &str) -> Vec<String> {
        let network: Value = serde_json::from_str(network).unwrap();
        let plugins = network["plugins"].as_array().unwrap();
        plugins.iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_hold_is_the_last_plugin_once() {
        let held = with_hold(LIST_OF_OTHERS, &hold_at("/pins")).unwrap();
        assert_eq!(types(&held), ["bridge", "portmap", PLUGIN]);
        assert!(held.contains(r#""pinDir": "/pins""#), "{held}");
        assert_eq!(with_hold(&held, &hold_at("/pins")).unwrap(), held);
        let single =
            with_hold(r#"{"cniVersion": "0.4.0", "name": "pods", "type": "ptp"}"#, &hold_at("/pins"))
                .unwrap();
        assert_eq!(types(&single), ["ptp", PLUGIN]);
        assert!(with_hold("{}", &hold_at("/pins")).unwrap_err().contains("plugins"));
    }

    #[test]
    fn the_hold_follows_the_first_of_the_others_and_outlives_its_rewriting() {
        let folder = tempfile::tempdir().unwrap();
        let (pins, list) = (&hold_at("/pins"), folder.path().join(LIST));
        let held = || types(&fs::read_to_string(&list).unwrap());
        assert!(matches!(install(folder.path(), pins), Err(HoldError::NoNetwork { .. })));
        fs::write(folder.path().join("10-pods.conflist"), LIST_OF_OTHERS).unwrap();
        fs::write(folder.path().join("99-loopback.conf"), "not read").unwrap();
        assert!(install(folder.path(), pins).unwrap());
        assert_eq!(held(), ["bridge", "portmap", PLUGIN]);
        assert!(!install(folder.path(), pins).unwrap(), "nothing changed");
        // Its own program starts anew, as after a reboot.
        fs::write(folder.path().join("10-pods.conflist"), LIST_OF_OTHERS.replace("portmap", "bandwidth"))
            .unwrap();
        assert_eq!(held().last().unwrap(), PLUGIN);
        assert!(install(folder.path(), pins).unwrap());
        assert_eq!(held(), ["bridge", "bandwidth", PLUGIN]);
        fs::remove_file(folder.path().join("10-pods.conflist")).unwrap();
        fs::remove_file(folder.path().join("99-loopback.conf")).unwrap();
        assert!(!install(folder.path(), pins).unwrap());
        assert_eq!(held().last().unwrap(), PLUGIN);
        assert_eq!(networks(folder.path()).unwrap(), [LIST], "nothing half written is left");
    }

    #[test]
    fn a_list_that_runtimes_would_take_before_ours_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("0-first.conflist"), LIST_OF_OTHERS).unwrap();
        let error = install(folder.path(), &hold_at("/pins")).unwrap_err();
        assert!(error.to_string().contains("0-first.conflist sorts before"), "{error}");
    }
}
