//! Which sources the image is made from, and the one time that it knows: theirs.

use std::env;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::process;

/// What the image says of its sources.
pub struct Source {
    /// The version of the program.
    pub version: String,
    /// The commit, if the sources have one; `-dirty` behind it if they differ from it.
    pub revision: Option<String>,
    /// Seconds since 1970.
    pub time: u64,
}

impl Source {
    /// Asks git; `SOURCE_DATE_EPOCH` wins over the time of the commit.
    ///
    /// # Errors
    /// If there is neither git nor `SOURCE_DATE_EPOCH`, or a time is none.
    pub fn find() -> Result<Self> {
        let revision = git(&["describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]).ok();
        let time = match env::var("SOURCE_DATE_EPOCH") {
            Ok(time) => time,
            Err(_) => git(&["log", "-1", "--format=%ct"])
                .context("these sources have no commit; set SOURCE_DATE_EPOCH to their time in seconds")?,
        };
        let time = time.parse().with_context(|| format!("{time:?} is not a number of seconds since 1970"))?;
        Ok(Self { version: env!("CARGO_PKG_VERSION").to_owned(), revision, time })
    }

    /// The time as RFC 3339 has it.
    pub fn created(&self) -> String {
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.time)).to_string()
    }
}

fn git(words: &[&str]) -> Result<String> {
    Ok(process::output(process::command("git").args(words))?.trim().to_owned())
}
