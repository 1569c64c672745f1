//! Reference documents, written from the code: what flags there are, what is counted, what our kinds look like.

use std::fmt::Write;

use clap::{Arg, Command, ValueEnum};

use super::reference_kinds;
use crate::capture::CaptureMetrics;
use crate::config_client;
use crate::control;
use crate::control::generate::{GenerateError, custom_resource_definitions, definitions};
use crate::controller;
use crate::identity::IdentityMetrics;
use crate::kernel;
use crate::key_sets::KeySetMetrics;
use crate::proxy::ProxyMetrics;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::registry::{Description, Registry};
use crate::telemetry::traffic;
use crate::transport::tunnel;

/// Heads every document.
pub(super) const NOTE: &str = "<!-- Written by `cargo xtask docs` from the code: change it there. -->\n\n";

/// A document that the code writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Document {
    /// `docs/flags.md`
    Flags,
    /// `docs/metrics.md`
    Metrics,
    /// `docs/kinds.md`
    Kinds,
    /// `manifests/foundation/crds.yaml`
    Definitions,
}

/// Why a document could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// Two modules count under one name, or a name breaks the rule.
    #[error("register what every module counts")]
    Metrics(#[from] prometheus::Error),
    /// A definition has no form in YAML.
    #[error("write the definitions of our kinds")]
    Definitions(#[from] GenerateError),
}

/// Writes a document; `root` is the whole command line.
///
/// # Errors
/// If the code contradicts itself; see [`ReferenceError`].
pub fn write(document: Document, root: &Command) -> Result<String, ReferenceError> {
    match document {
        Document::Flags => Ok(flags(root)),
        Document::Metrics => {
            let registry = Registry::new();
            register_all(&registry)?;
            Ok(metrics(&registry))
        }
        Document::Kinds => Ok(reference_kinds::kinds(&definitions()?)),
        Document::Definitions => Ok(custom_resource_definitions()?),
    }
}

/// Registers what every module counts, as agent and controller do.
fn register_all(registry: &Registry) -> Result<(), prometheus::Error> {
    kernel::register_metrics(registry, Vec::new)?;
    control::metrics::Metrics::new(registry)?;
    config_client::metrics::Metrics::new(registry)?;
    config_client::metrics::AskMetrics::new(registry)?;
    controller::register_metrics(registry)?;
    KeySetMetrics::new(registry)?;
    CaptureMetrics::new(registry)?;
    IdentityMetrics::new(registry)?;
    tunnel::register_metrics(registry, Vec::new())?;
    AccessLog::off(registry)?;
    ProxyMetrics::new(registry)?;
    Ok(())
}

fn flags(root: &Command) -> String {
    let mut text =
        format!("# Flags\n\n{NOTE}Every flag can be given as an environment variable too; the flag wins.\n");
    for (name, command) in commands(root, "mesh-node") {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        push(&mut text, format_args!("\n## `{name}`\n\n{about}.\n"));
        let mut arguments: Vec<&Arg> =
            command.get_arguments().filter(|arg| !arg.is_hide_set() && arg.get_id() != "help").collect();
        // Stable: arguments keep their order below one heading.
        let headings = headings(&arguments);
        arguments.sort_by_key(|arg| headings.iter().position(|heading| *heading == arg.get_help_heading()));
        let mut heading = None;
        for argument in arguments {
            if heading != Some(argument.get_help_heading()) {
                heading = Some(argument.get_help_heading());
                let title = argument.get_help_heading();
                title.iter().for_each(|title| push(&mut text, format_args!("\n### {title}\n")));
                text.push_str("\n| flag | environment | default | what |\n|---|---|---|---|\n");
            }
            flag(&mut text, argument);
        }
    }
    text
}

/// Every command that does something, as it is typed.
fn commands<'a>(root: &'a Command, name: &str) -> Vec<(String, &'a Command)> {
    let shown =
        root.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
    let below = shown.flat_map(|command| {
        let name = format!("{name} {}", command.get_name());
        if command.has_subcommands() { commands(command, &name) } else { vec![(name, command)] }
    });
    below.collect()
}

fn headings<'a>(arguments: &[&'a Arg]) -> Vec<Option<&'a str>> {
    let mut headings = Vec::new();
    for argument in arguments {
        if !headings.contains(&argument.get_help_heading()) {
            headings.push(argument.get_help_heading());
        }
    }
    headings
}

fn flag(text: &mut String, argument: &Arg) {
    let takes_values = argument.get_action().takes_values();
    let names = argument.get_value_names().filter(|_| takes_values);
    let values: Vec<String> = names.unwrap_or_default().iter().map(ToString::to_string).collect();
    let name = match argument.get_long() {
        Some(long) => format!("--{long} {}", values.join(" ")).trim_end().to_owned(),
        None => values.join(" "),
    };
    let code = |value: String| if value.is_empty() { value } else { format!("`{value}`") };
    let environment = argument.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let defaults: Vec<String> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    let mut what = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let choices: Vec<String> = argument
        .get_possible_values()
        .iter()
        .map(|value| {
            let help = value.get_help().map(ToString::to_string).unwrap_or_default();
            let help = help.trim_end_matches('.');
            let name = value.get_name();
            if help.is_empty() { format!("`{name}`") } else { format!("`{name}`: {help}") }
        })
        .collect();
    if takes_values && !choices.is_empty() {
        what += &format!(" ({})", choices.join("; "));
    }
    push(
        text,
        format_args!(
            "| {} | {} | {} | {} |\n",
            code(name),
            code(environment),
            code(defaults.join(" ")),
            what.replace('|', "\\|")
        ),
    );
}

fn metrics(registry: &Registry) -> String {
    let mut text = format!(
        "# Metrics\n\n{NOTE}Prometheus text at `/metrics` of `--metrics-address`.\n\n## Traffic\n\n\
         Istio's standard metrics, for both reporters. Labels of all of them: `reporter`, for each of `source` and \
         `destination` the\n`_workload`, `_workload_namespace`, `_canonical_service`, `_canonical_revision`, `_app`, \
         `_version`, `_principal` and `_cluster`,\nthen `destination_service`, `destination_service_name`, \
         `destination_service_namespace`, `request_protocol`, `response_flags`\nand `connection_security_policy`; \
         those of requests also `response_code` and `grpc_response_status`; those of messages,\nwhich are counted while \
         their call goes on, have no `response_flags`. What is not known is `unknown`; what found no\nroom \
         (`--max-series`) is `other`.\n\n| metric | kind | what |\n|---|---|---|\n"
    );
    let (traffic, own): (Vec<_>, Vec<_>) =
        traffic::DESCRIPTIONS.iter().partition(|(name, ..)| name.starts_with("istio_"));
    for (name, kind, help) in traffic {
        push(&mut text, format_args!("| `{name}` | {kind} | {help} |\n"));
    }
    text.push_str("\n## The daemon's own\n\n| metric | kind | labels | what |\n|---|---|---|---|\n");
    let own = own.into_iter().map(|(name, kind, help)| Description {
        name: (*name).to_owned(),
        kind,
        labels: Vec::new(),
        help: (*help).to_owned(),
    });
    let mut all: Vec<Description> = registry.descriptions().into_iter().chain(own).collect();
    all.sort();
    for Description { name, kind, labels, help } in all {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        push(&mut text, format_args!("| `{name}` | {kind} | {} | {help} |\n", labels.join(" ")));
    }
    text
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_counts_under_names_that_keep_the_rule() {
        register_all(&Registry::new()).unwrap();
    }

    #[test]
    fn a_flag_shows_its_environment_default_and_choices() {
        let argument = Arg::new("form")
            .long("form")
            .env("NODEMESH_FORM")
            .value_name("FORM")
            .default_value("text")
            .value_parser(["text", "json"])
            .help("Form of the answer");
        let root = Command::new("mesh-node").subcommand(Command::new("dump").about("Show").arg(argument));
        let text = flags(&root);
        let row = "| `--form FORM` | `NODEMESH_FORM` | `text` | Form of the answer (`text`; `json`) |";
        assert!(text.contains(row), "{text}");
    }

    #[test]
    fn a_switch_shows_no_value() {
        let argument = Arg::new("stay").long("stay").value_name("STAY").action(clap::ArgAction::SetTrue);
        let argument = argument.value_parser(clap::value_parser!(bool));
        let root = Command::new("mesh-node").subcommand(Command::new("hold").arg(argument.help("Stay")));
        let text = flags(&root);
        assert!(text.contains("| `--stay` |  |  | Stay |"), "{text}");
    }
}
