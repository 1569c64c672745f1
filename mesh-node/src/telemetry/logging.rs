//! The log: what is said, in which form, and a filter that changes while the agent runs.
//!
//! Written to standard error; access records have standard output to themselves.

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::args::LogFormat;

/// Changes what is logged, while the agent runs. A clone changes the same filter.
#[derive(Clone, Debug)]
pub struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
}

/// Why there is no log, or no other filter.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The directives are none.
    #[error("{directives:?} is no log filter; write it as in info or info,mesh_node::kernel=debug")]
    Directives {
        /// What was given.
        directives: String,
        /// What is wrong with it.
        #[source]
        cause: tracing_subscriber::filter::ParseError,
    },
    /// A directive names no level: it would turn everything else off.
    #[error(
        "{directives:?} is no log filter: {word:?} is none of off, error, warn, info, debug and trace; write it as in info or info,mesh_node::kernel=debug"
    )]
    Level {
        /// What was given.
        directives: String,
        /// What stands in place of a level.
        word: String,
    },
    /// A log is there already.
    #[error("install the log")]
    Install(#[source] TryInitError),
    /// The log was taken down, at the end of the process.
    #[error("the log is gone")]
    Gone(#[source] reload::Error),
}

/// Installs the log of this process; returns what changes its filter.
///
/// # Errors
/// [`LoggingError::Directives`] or [`LoggingError::Level`] if `directives` cannot be read, [`LoggingError::Install`] if there is a log already.
pub fn install(directives: &str, format: LogFormat) -> Result<LogFilter, LoggingError> {
    let (filter, handle) = reload::Layer::new(parse(directives)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(LoggingError::Install)?;
    Ok(LogFilter { handle })
}

impl LogFilter {
    /// Makes a filter that is part of no log; it works as long as what is returned with it lives.
    ///
    /// # Errors
    /// [`LoggingError::Directives`] if `directives` cannot be read.
    pub fn detached(directives: &str) -> Result<(reload::Layer<EnvFilter, Registry>, Self), LoggingError> {
        let (layer, handle) = reload::Layer::new(parse(directives)?);
        Ok((layer, Self { handle }))
    }

    /// Replaces the filter.
    ///
    /// # Errors
    /// [`LoggingError::Directives`] if `directives` cannot be read; the filter in force stays.
    pub fn set(&self, directives: &str) -> Result<(), LoggingError> {
        let filter = parse(directives)?;
        self.handle.reload(filter).map_err(LoggingError::Gone)
    }

    /// Returns the directives in force.
    ///
    /// # Errors
    /// [`LoggingError::Gone`] at the end of the process.
    pub fn directives(&self) -> Result<String, LoggingError> {
        self.handle.with_current(ToString::to_string).map_err(LoggingError::Gone)
    }
}

fn parse(directives: &str) -> Result<EnvFilter, LoggingError> {
    let mut words = directives.split(',');
    // What selects spans may have commas of its own, and is more than a word.
    let is_word = |word: &&str| !directives.contains(['[', '{']) && !word.contains('=');
    // The library takes no word at all for a level.
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    if let Some(word) = words.find(|word| is_word(word) && !is_level(word)) {
        return Err(LoggingError::Level { directives: directives.to_owned(), word: word.to_owned() });
    }
    EnvFilter::builder()
        .parse(directives)
        .map_err(|cause| LoggingError::Directives { directives: directives.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_replaced() {
        let (_layer, filter) = LogFilter::detached("info").unwrap();
        filter.set("warn,mesh_node::kernel=debug").unwrap();
        assert_eq!(filter.directives().unwrap(), "mesh_node::kernel=debug,warn");
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        let (_layer, filter) = LogFilter::detached("info").unwrap();
        for wrong in
            ["inof", "", " ", "info,", "info,,,", ",info", "nonsense", "info,mesh_node", "info debug"]
        {
            let error = filter.set(wrong).unwrap_err();
            assert!(matches!(error, LoggingError::Level { .. }), "{wrong:?}: {error}");
        }
        let error = filter.set("inof").unwrap_err().to_string();
        assert!(error.contains("\"inof\" is none of off, error, warn, info, debug and trace"), "{error}");
        assert_eq!(filter.directives().unwrap(), "info");
        for good in ["off", "WARN", "info,mesh_node::kernel=debug", "mesh_node=trace", "[span{field}]=info"] {
            filter.set(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
    }

    #[test]
    fn a_bad_filter_leaves_the_old_one() {
        let (_layer, filter) = LogFilter::detached("info").unwrap();
        assert!(matches!(filter.set("mesh_node=loud"), Err(LoggingError::Directives { .. })));
        assert_eq!(filter.directives().unwrap(), "info");
    }
}
