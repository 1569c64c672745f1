//! A folder of YAML, watched: what its files say now, as soon as they are whole.
//!
//! In: a folder. Out: batches of [`Reading`]s. A file is read when whoever wrote it closes it, or when it is renamed
//! into place; never while it is being written. What is gone is given up only when it stays away for a moment, and
//! never because the folder cannot be read. Never: a look at what the files mean.

mod events;
mod files;
mod pending;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_common::model::Text;
use rustix::time::{ClockId, clock_gettime};

use events::{Event, Watch};
use files::{Listing, Stamp};
use pending::Pending;

/// How often the folder is looked over, in case that no event told of a change: targets of links, lost events.
const SWEEP_INTERVAL: Duration = Duration::from_secs(2);
/// The same, where the kernel tells nothing (no inotify left).
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How much longer than a core works for it a sweep is put off, so that a huge folder costs at most a hundredth of a core.
const SWEEP_REST: u32 = 100;
/// How much longer than it takes, so that a folder that is slow to answer holds up little else. Less: on a machine that does
/// other work a sweep takes long and costs nothing.
const SLOW_REST: u32 = 10;
/// Sweeps that must miss a file before it is given up without an event.
const MISSES: u32 = 2;
/// The same, where more than [`MASS`] of the files are missed: about half a minute.
const MASS_MISSES: u32 = 15;
/// The share of files, in percent, from which on it may be the folder that is wrong, not its files.
const MASS: usize = 30;

/// What was found of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The file, by its name in the folder.
    pub file: Text,
    /// What it says.
    pub content: Content,
}

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// This.
    Text(String),
    /// It cannot be read.
    Refused {
        /// Why.
        reason: String,
        /// What could be seen of it: policies may stand in it.
        seen: String,
    },
    /// It is not there any more.
    Gone,
}

/// Watches one folder.
#[derive(Debug)]
pub struct FolderWatch {
    folder: PathBuf,
    /// Held for its events; dropped and made anew when the folder is another one.
    watch: Option<Watch>,
    /// The folder that is watched, by device and inode.
    identity: Option<(u64, u64)>,
    known: BTreeMap<Text, Known>,
    pending: Pending,
    next_sweep: Instant,
    /// Without events: how each changed file looked at the last sweep. One that looks the same twice is whole.
    unsettled: BTreeMap<Text, Stamp>,
    /// The first batch, until it is whole.
    first: Option<First>,
    /// Why the folder as a whole is not up to date.
    trouble: Option<String>,
    /// The same, as the caller knows it.
    told_trouble: Option<String>,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    /// Sweeps in a row that did not find it.
    misses: u32,
}

/// The folder as it is read for the first time.
#[derive(Debug, Default)]
struct First {
    is_swept: bool,
    readings: BTreeMap<Text, Reading>,
    /// Whether it was said what is waited for.
    is_said: bool,
}

impl First {
    /// Adds what was read meanwhile; gives the whole once nobody writes to the folder.
    fn with(
        mut self,
        readings: Vec<Reading>,
        is_swept: bool,
        pending: &Pending,
    ) -> Result<Vec<Reading>, Self> {
        self.is_swept |= is_swept;
        self.readings.extend(readings.into_iter().map(|reading| (reading.file.clone(), reading)));
        let Some(file) = pending.being_written().filter(|_| self.is_swept) else {
            return if self.is_swept { Ok(self.readings.into_values().collect()) } else { Err(self) };
        };
        if !self.is_said {
            tracing::info!(%file, "nothing is in force before this file is whole");
        }
        self.is_said = true;
        Err(self)
    }
}

impl FolderWatch {
    /// Begins to watch a folder.
    ///
    /// # Errors
    /// If it is not a folder that can be read.
    pub fn new(folder: &Path) -> io::Result<Self> {
        files::list(folder)?;
        let mut watch = Self {
            folder: folder.to_owned(),
            watch: None,
            identity: None,
            known: BTreeMap::new(),
            pending: Pending::default(),
            next_sweep: Instant::now(),
            unsettled: BTreeMap::new(),
            first: Some(First::default()),
            trouble: None,
            told_trouble: None,
        };
        watch.rewatch();
        Ok(watch)
    }

    /// Why the folder as a whole is not up to date, if it is not.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Waits for files that changed. The first batch is the whole folder, also what is being written just then. A batch is
    /// empty if that is, or if just [`Self::trouble`] came or went.
    ///
    /// Cancel safe: what is not returned is found again.
    pub async fn next(&mut self) -> Vec<Reading> {
        loop {
            let now = Instant::now();
            let is_swept = now >= self.next_sweep && self.sweep(now);
            let readings = self.readings(now);
            match self.first.take() {
                Some(first) => match first.with(readings, is_swept, &self.pending) {
                    Ok(whole) => return whole,
                    Err(first) => self.first = Some(first),
                },
                None if !readings.is_empty() || self.told_trouble != self.trouble => {
                    self.told_trouble.clone_from(&self.trouble);
                    return readings;
                }
                None => {}
            }
            let wake = self.pending.next_deadline().map_or(self.next_sweep, |at| at.min(self.next_sweep));
            self.wait(wake).await;
        }
    }

    async fn wait(&mut self, until: Instant) {
        // The deadline of a file that is not whole yet, or of the next sweep.
        let deadline = tokio::time::sleep_until(until.into());
        let event = match &mut self.watch {
            Some(watch) => tokio::select! {
                event = watch.next() => event,
                () = deadline => return,
            },
            None => return deadline.await,
        };
        if event.is_none() {
            // Its thread ended: the next sweep makes another.
            self.watch = None;
            self.next_sweep = Instant::now();
        }
        self.note(event);
    }

    /// Takes an event, and all that wait behind it.
    fn note(&mut self, first: Option<Event>) {
        let mut next = first;
        let now = Instant::now();
        loop {
            match next {
                Some(Event::Writing(file)) => self.pending.writing(file, now),
                Some(Event::Created(file)) => {
                    if files::is_link(&self.folder.join(&*file)) {
                        self.pending.written(file, now);
                    } else {
                        self.pending.writing(file, now);
                    }
                }
                Some(Event::Written(file)) => self.pending.written(file, now),
                Some(Event::Gone(file)) => self.pending.gone(file, now),
                Some(Event::Unsure) => self.next_sweep = now,
                None => return,
            }
            next = self.watch.as_mut().and_then(Watch::try_next);
        }
    }

    /// Reads what is ready, except what someone began to write meanwhile.
    fn readings(&mut self, now: Instant) -> Vec<Reading> {
        let mut readings = Vec::new();
        for file in self.pending.take_ready(now) {
            let (content, stamp) = files::read(&self.folder.join(&*file));
            let pending = self.watch.as_mut().and_then(Watch::try_next);
            self.note(pending);
            if self.pending.is_being_written(&file) {
                continue;
            }
            let was_there = self.known.contains_key(&file);
            match (&content, stamp) {
                (Content::Gone, _) if self.folder_is_gone() => continue,
                (Content::Gone, _) if !was_there => continue,
                (Content::Gone, _) => drop(self.known.remove(&file)),
                (Content::Text(text), Some(stamp)) => {
                    // Someone may have emptied it to write it anew; then it is not empty for long.
                    let may_be_emptied = was_there || self.first.is_some();
                    if text.trim().is_empty() && may_be_emptied && !self.pending.was_empty_before(&file, now)
                    {
                        continue;
                    }
                    if !text.trim().is_empty() {
                        self.pending.filled(&file);
                    }
                    self.known.insert(file.clone(), Known { stamp, misses: 0 });
                }
                (_, stamp) => {
                    let stamp = stamp.unwrap_or_default();
                    self.known.insert(file.clone(), Known { stamp, misses: 0 });
                }
            }
            readings.push(Reading { file, content });
        }
        readings
    }

    fn folder_is_gone(&mut self) -> bool {
        match std::fs::read_dir(&self.folder) {
            Ok(_) => false,
            Err(error) => {
                self.trouble = Some(format!("cannot be read: {error}; what it said last is in force"));
                true
            }
        }
    }

    /// Looks the whole folder over; `false` if it cannot.
    fn sweep(&mut self, now: Instant) -> bool {
        let before = worked();
        if files::identity(&self.folder) != self.identity || self.watch.is_none() {
            self.rewatch();
        }
        let listing = files::list(&self.folder);
        let interval = if self.watch.is_some() { SWEEP_INTERVAL } else { POLL_INTERVAL };
        let worked = worked().saturating_sub(before);
        self.next_sweep = Instant::now() + rest(interval, worked, now.elapsed());
        match listing {
            Ok(listing) => {
                self.compare(listing, now);
                true
            }
            Err(error) => {
                self.trouble = Some(format!("cannot be read: {error}; what it said last is in force"));
                false
            }
        }
    }

    fn compare(&mut self, listing: Listing, now: Instant) {
        let missed: Vec<Text> =
            self.known.keys().filter(|file| !listing.files.contains_key(*file)).cloned().collect();
        let is_mass = missed.len() > 10 && missed.len() * 100 > self.known.len() * MASS;
        let is_all = !missed.is_empty() && listing.files.is_empty();
        self.trouble = match (is_all, is_mass) {
            (true, _) => {
                Some("has no file any more; what it said last is in force until one is there".to_owned())
            }
            (false, true) => Some(format!(
                "misses {} of {} files; waiting whether they come back",
                missed.len(),
                self.known.len()
            )),
            (false, false) => listing.trouble,
        };
        self.find_changed(listing.files, now);
        if !is_all {
            self.miss(missed, if is_mass { MASS_MISSES } else { MISSES }, now);
        }
    }

    fn find_changed(&mut self, files: BTreeMap<Text, Stamp>, now: Instant) {
        let mut unsettled = BTreeMap::new();
        for (file, stamp) in files {
            if let Some(known) = self.known.get_mut(&file) {
                known.misses = 0;
                if known.stamp == stamp {
                    continue;
                }
            }
            let is_whole =
                self.watch.is_some() || self.first.is_some() || self.unsettled.get(&file) == Some(&stamp);
            if is_whole {
                self.pending.seen(file, now);
            } else {
                unsettled.insert(file, stamp);
            }
        }
        self.unsettled = unsettled;
    }

    /// Gives files up that were missed often enough.
    fn miss(&mut self, missed: Vec<Text>, needed: u32, now: Instant) {
        for file in missed {
            let Some(known) = self.known.get_mut(&file) else { continue };
            known.misses = known.misses.saturating_add(1);
            if known.misses >= needed {
                self.pending.gone(file, now);
            }
        }
    }

    fn rewatch(&mut self) {
        self.identity = files::identity(&self.folder);
        self.watch = match Watch::new(&self.folder) {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::debug!(error = %crate::telemetry::chain::Chain(&error), "config folder is polled");
                None
            }
        };
        self.next_sweep = Instant::now();
    }
}

/// How long a core has worked for this thread.
fn worked() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

/// PURE. How long to wait after a sweep for which a core worked so long, and which took so long.
fn rest(interval: Duration, worked: Duration, took: Duration) -> Duration {
    interval.max(worked * SWEEP_REST).max(took * SLOW_REST)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// A watch that knows of files, and one sweep after the other.
    fn swept(known: usize, found: usize, sweeps: u32) -> (usize, Option<String>) {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = FolderWatch::new(folder.path()).unwrap();
        watch.first = None;
        let name = |index: usize| -> Text { format!("{index}.yaml").into() };
        watch.known =
            (0..known).map(|index| (name(index), Known { stamp: Stamp::default(), misses: 0 })).collect();
        let now = Instant::now();
        for _ in 0..sweeps {
            let files = (0..found).map(|index| (name(index), Stamp::default())).collect();
            watch.compare(Listing { files, trouble: None }, now);
        }
        (watch.pending.take_ready(now + Duration::from_secs(1)).len(), watch.trouble)
    }

    #[tokio::test]
    async fn the_first_batch_waits_for_what_is_being_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        std::fs::write(file("a.yaml"), "kind: Service").unwrap();
        std::fs::write(file("b.yaml"), "kind: ").unwrap();
        let mut watch = FolderWatch::new(folder.path()).unwrap();
        watch.note(Some(Event::Writing("b.yaml".into())));
        assert!(watch.next().now_or_never().is_none());
        std::fs::write(file("b.yaml"), "kind: AuthorizationPolicy").unwrap();
        let whole = watch.next().await;
        let texts: Vec<&Content> = whole.iter().map(|reading| &reading.content).collect();
        let text = |text: &str| Content::Text(text.to_owned());
        assert_eq!(texts, [&text("kind: Service"), &text("kind: AuthorizationPolicy")]);
    }

    #[tokio::test]
    async fn an_empty_file_is_given_time_to_be_written_at_first_too() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.yaml"), "").unwrap();
        let mut watch = FolderWatch::new(folder.path()).unwrap();
        assert!(watch.next().now_or_never().is_none());
        assert_eq!(watch.next().await.len(), 1);
    }

    #[test]
    fn a_file_that_one_sweep_misses_is_not_given_up() {
        assert_eq!(swept(20, 19, MISSES - 1), (0, None));
        assert_eq!(swept(20, 19, MISSES), (1, None));
    }

    #[test]
    fn a_sweep_is_put_off_for_its_own_work_and_little_for_that_of_others() {
        let milliseconds = Duration::from_millis;
        let rest = |worked, took| rest(SWEEP_INTERVAL, milliseconds(worked), milliseconds(took));
        assert_eq!(rest(1, 200), SWEEP_INTERVAL, "others had the core");
        assert_eq!(rest(50, 60), milliseconds(5000), "a huge folder");
        assert_eq!(rest(1, 1000), milliseconds(10_000), "a slow one");
    }

    #[test]
    fn many_files_that_are_missed_at_once_are_held() {
        let (given_up, trouble) = swept(20, 5, MASS_MISSES - 1);
        assert_eq!(given_up, 0);
        assert_eq!(trouble.unwrap(), "misses 15 of 20 files; waiting whether they come back");
        assert_eq!(swept(20, 5, MASS_MISSES).0, 15);
    }

    #[test]
    fn a_folder_that_is_suddenly_empty_gives_up_nothing() {
        let (given_up, trouble) = swept(3, 0, 1000);
        assert_eq!(given_up, 0);
        assert!(trouble.unwrap().starts_with("has no file any more"));
    }
}
