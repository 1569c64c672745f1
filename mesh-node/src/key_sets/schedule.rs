//! PURE. When to fetch the keys of which URI, and what to keep of what came.
//!
//! In: what is wanted, how fetches ended, the time and a random number as arguments. Out: fetches to begin, and what is known.
//! Keys are fetched again every so often, sooner after a failure, each time later. A failure leaves the last good keys in
//! use, up to an age; where there never were any, agents that have some of before keep those for as long. Servers that
//! failed before take half of the places at most: they may hang.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mesh_common::model::Text;
use mesh_common::token::KeySet;

use crate::control::key_ring::{KeyFailure, KeyNews, KeyState, Wanted};

/// After the first failure, on average.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// After many, on average.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Fetches at a time: each may hold a mebibyte.
pub(super) const AT_A_TIME: usize = 32;
/// Of those, of servers that failed before.
const FAILING_AT_A_TIME: usize = AT_A_TIME / 2;
/// URIs whose keys are kept, 256 KiB at most of each.
pub(super) const MAX_URIS: usize = 500;

/// When keys are fetched again, and when they are too old.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ages {
    pub(super) refresh: Duration,
    pub(super) longest: Duration,
}

/// One moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) at: Instant,
    pub(super) time: SystemTime,
}

/// A fetch to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fetch {
    pub(super) uri: Text,
    pub(super) timeout: Duration,
}

/// How many URIs stand how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) fetched: usize,
    /// Keys of before are in use.
    pub(super) failing: usize,
    pub(super) missing: usize,
    pub(super) expired: usize,
    /// When those keys were fetched that were fetched the longest ago.
    pub(super) oldest: Option<SystemTime>,
}

/// All URIs.
#[derive(Debug)]
pub(super) struct Schedule {
    ages: Ages,
    sources: BTreeMap<Text, Source>,
    /// More than are fetched; told of each once.
    left_out: BTreeMap<Text, Moment>,
}

#[derive(Debug)]
struct Source {
    timeout: Duration,
    next: Instant,
    is_running: bool,
    failures: u32,
    failure: Option<(String, SystemTime)>,
    keys: Option<Arc<KeySet>>,
    /// When the keys were fetched; before that, since when they are wanted.
    since: Moment,
    is_expired: bool,
    told: KeyState,
}

impl Schedule {
    pub(super) fn new(ages: Ages) -> Self {
        // Keys that the next fetch would renew are never too old.
        let longest = ages.longest.max(ages.refresh * 2);
        Self { ages: Ages { longest, ..ages }, sources: BTreeMap::new(), left_out: BTreeMap::new() }
    }

    /// Takes what is wanted now. What was before it stays, where there are too many.
    pub(super) fn want(&mut self, wanted: &Wanted, now: Moment) -> Vec<KeyNews> {
        self.sources.retain(|uri, _| wanted.contains_key(uri));
        let known = std::mem::take(&mut self.left_out);
        let mut news = Vec::new();
        for (uri, timeout) in wanted {
            if let Some(source) = self.sources.get_mut(uri) {
                source.timeout = *timeout;
            } else if self.sources.len() < MAX_URIS {
                self.sources.insert(uri.clone(), Source::new(*timeout, now));
            } else {
                let since = known.get(uri).copied().unwrap_or(now);
                if !known.contains_key(uri) {
                    news.push(too_many(uri, now));
                }
                self.left_out.insert(uri.clone(), since);
            }
        }
        news
    }

    /// The fetches that are to begin now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Fetch> {
        let running = self.sources.values().filter(|source| source.is_running);
        let (mut all, mut failing) = running
            .fold((0, 0), |(all, failing), source| (all + 1, failing + usize::from(source.failures > 0)));
        let mut due: Vec<_> = self.sources.iter_mut().filter(|(_, source)| source.is_due(now)).collect();
        // Who has waited the longest is first.
        due.sort_by_key(|(_, source)| source.next);
        let mut fetches = Vec::new();
        for (uri, source) in due {
            let fails = source.failures > 0;
            if all == AT_A_TIME || (fails && failing == FAILING_AT_A_TIME) {
                continue;
            }
            (all, failing) = (all + 1, failing + usize::from(fails));
            source.is_running = true;
            fetches.push(Fetch { uri: uri.clone(), timeout: source.timeout });
        }
        fetches
    }

    /// Takes how a fetch ended, `jitter` in `0.0..1.0`. What it says is told if it is new.
    pub(super) fn took(
        &mut self,
        uri: &str,
        result: Result<KeySet, String>,
        now: Moment,
        jitter: f64,
    ) -> Option<KeyNews> {
        let longest = self.ages.longest;
        let (uri, mut source) = self.sources.remove_entry(uri)?;
        source.is_running = false;
        match result {
            Ok(keys) => {
                // A tenth sooner or later: what began together does not stay together.
                source.next = now.at + self.ages.refresh.mul_f64(0.9 + jitter / 5.0);
                (source.failures, source.failure, source.is_expired) = (0, None, false);
                source.keys = Some(Arc::new(keys));
                source.since = now;
            }
            Err(reason) => {
                let wait = SHORTEST_WAIT.saturating_mul(1 << source.failures.min(10));
                source.next = now.at + wait.min(LONGEST_WAIT).min(self.ages.refresh).mul_f64(0.5 + jitter);
                source.failures = source.failures.saturating_add(1);
                let since = source.failure.take().map_or(now.time, |(_, since)| since);
                source.failure = Some((reason, since));
            }
        }
        let news = source.news(&uri, longest);
        self.sources.insert(uri, source);
        news
    }

    /// Takes back what is too old by now.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<KeyNews> {
        let longest = self.ages.longest;
        let expire = |(uri, source): (&Text, &mut Source)| {
            if !source.is_expired && now >= source.since.at + longest {
                (source.is_expired, source.keys) = (true, None);
            }
            source.news(uri, longest)
        };
        self.sources.iter_mut().filter_map(expire).collect()
    }

    /// When something is to be done next, besides taking how fetches end. What is due and waits for a place begins then.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let next = |source: &Source| {
            let fetch = (!source.is_running).then_some(source.next);
            let expiry = (!source.is_expired).then(|| source.since.at + self.ages.longest);
            fetch.into_iter().chain(expiry).filter(|at| *at > now).min()
        };
        self.sources.values().filter_map(next).min()
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts { missing: self.left_out.len(), ..Counts::default() };
        for source in self.sources.values() {
            match (&source.keys, source.failures) {
                (Some(_), 0) => counts.fetched += 1,
                (Some(_), _) => counts.failing += 1,
                (None, _) if source.is_expired => counts.expired += 1,
                (None, _) => counts.missing += 1,
            }
            let fetched = source.keys.as_ref().map(|_| source.since.time);
            counts.oldest = counts.oldest.into_iter().chain(fetched).min();
        }
        counts
    }
}

impl Source {
    fn new(timeout: Duration, now: Moment) -> Self {
        Self {
            timeout,
            next: now.at,
            is_running: false,
            failures: 0,
            failure: None,
            keys: None,
            since: now,
            is_expired: false,
            told: KeyState::default(),
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        !self.is_running && self.next <= now
    }

    /// What is known, if that was not told.
    fn news(&mut self, uri: &Text, longest: Duration) -> Option<KeyNews> {
        let failure = self.failure.as_ref().map(|(reason, since)| KeyFailure {
            reason: reason.clone(),
            since: *since,
            until: self.since.time + longest,
        });
        let state = KeyState { keys: self.keys.clone(), failure, is_expired: self.is_expired };
        if state == self.told {
            return None;
        }
        self.told = state.clone();
        Some(KeyNews { uri: uri.clone(), state })
    }
}

fn too_many(uri: &Text, now: Moment) -> KeyNews {
    let reason = format!("keys of {MAX_URIS} other URIs are fetched already, and no more are");
    let failure = Some(KeyFailure { reason, since: now.time, until: now.time });
    KeyNews { uri: uri.clone(), state: KeyState { failure, ..KeyState::default() } }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URI: &str = "https://issuer.example/keys";
    const REFRESH: Duration = Duration::from_secs(1200);
    const LONGEST: Duration = Duration::from_secs(24 * 3600);

    struct Clock(Moment);

    impl Clock {
        fn new() -> Self {
            Self(Moment { at: Instant::now(), time: SystemTime::UNIX_EPOCH })
        }

        fn pass(&mut self, duration: Duration) -> Moment {
            self.0 = Moment { at: self.0.at + duration, time: self.0.time + duration };
            self.0
        }
    }

    fn schedule(uris: &[&str], now: Moment) -> Schedule {
        let mut schedule = Schedule::new(Ages { refresh: REFRESH, longest: LONGEST });
        let wanted = uris.iter().map(|uri| (Text::from(*uri), Duration::from_secs(5)));
        assert_eq!(schedule.want(&wanted.collect(), now), []);
        schedule
    }

    fn keys(name: &str) -> KeySet {
        KeySet::parse(&format!(r#"{{"keys":[],"name":"{name}"}}"#)).unwrap()
    }

    fn failed() -> Result<KeySet, String> {
        Err("answered 500".to_owned())
    }

    #[test]
    fn keys_are_fetched_at_once_and_again_every_so_often() {
        let mut clock = Clock::new();
        let mut schedule = schedule(&[URI], clock.0);
        assert_eq!(schedule.due(clock.0.at).len(), 1);
        assert!(schedule.due(clock.0.at).is_empty(), "it is under way");
        let news = schedule.took(URI, Ok(keys("a")), clock.0, 0.5).unwrap();
        assert!(news.state.keys.is_some() && news.state.failure.is_none());
        assert_eq!(schedule.next(clock.0.at), Some(clock.0.at + REFRESH));
        assert!(schedule.due(clock.pass(REFRESH - Duration::from_secs(1)).at).is_empty());
        assert_eq!(schedule.due(clock.pass(Duration::from_secs(1)).at).len(), 1);
        assert_eq!(schedule.took(URI, Ok(keys("a")), clock.0, 0.0), None, "nothing new");
        assert_eq!(schedule.next(clock.0.at), Some(clock.0.at + REFRESH.mul_f64(0.9)));
        clock.pass(REFRESH);
        schedule.due(clock.0.at);
        assert!(schedule.took(URI, Ok(keys("b")), clock.0, 0.0).is_some(), "other keys");
    }

    #[test]
    fn a_failure_keeps_the_last_keys_up_to_an_age_and_is_tried_again_later_each_time() {
        let mut clock = Clock::new();
        let mut schedule = schedule(&[URI], clock.0);
        schedule.due(clock.0.at);
        schedule.took(URI, Ok(keys("a")), clock.0, 0.5);
        let (fetched, mut waits) = (clock.0, Vec::new());
        clock.pass(REFRESH);
        let since = clock.0.time;
        while clock.0.at < fetched.at + LONGEST - LONGEST_WAIT * 2 {
            assert_eq!(schedule.due(clock.0.at).len(), 1);
            if let Some(news) = schedule.took(URI, failed(), clock.0, 0.5) {
                let failure = news.state.failure.unwrap();
                assert_eq!((failure.since, failure.until), (since, fetched.time + LONGEST));
                assert!(news.state.keys.is_some() && !news.state.is_expired);
            }
            waits.push(schedule.next(clock.0.at).unwrap() - clock.0.at);
            clock.pass(*waits.last().unwrap());
        }
        assert_eq!(waits[..4], [1, 2, 4, 8].map(Duration::from_secs));
        assert!(waits[10..].iter().all(|wait| *wait == LONGEST_WAIT));
        assert!(schedule.expire(clock.0.at).is_empty());
        clock.pass(LONGEST_WAIT * 2);
        let news = schedule.expire(clock.0.at);
        assert!(news[0].state.is_expired && news[0].state.keys.is_none(), "{news:?}");
        assert!(schedule.expire(clock.0.at).is_empty(), "told once");
        assert_eq!(schedule.counts().expired, 1);
        schedule.due(clock.0.at);
        let news = schedule.took(URI, Ok(keys("b")), clock.0, 0.5).unwrap();
        assert!(!news.state.is_expired && news.state.keys.is_some());
    }

    #[test]
    fn where_there_never_were_keys_those_of_agents_expire_too() {
        let mut clock = Clock::new();
        let mut schedule = schedule(&[URI], clock.0);
        schedule.due(clock.0.at);
        let news = schedule.took(URI, failed(), clock.0, 0.5).unwrap();
        assert!(!news.state.is_expired && news.state.keys.is_none());
        assert_eq!(schedule.took(URI, failed(), clock.0, 0.5), None, "told once");
        assert!(schedule.expire(clock.pass(LONGEST).at)[0].state.is_expired);
    }

    #[test]
    fn servers_that_fail_leave_places_to_others() {
        let clock = Clock::new();
        let uris: Vec<String> = (0..AT_A_TIME * 2).map(|number| format!("http://{number}/")).collect();
        let names: Vec<&str> = uris.iter().map(String::as_str).collect();
        let mut schedule = schedule(&names, clock.0);
        assert_eq!(schedule.due(clock.0.at).len(), AT_A_TIME);
        for uri in &names {
            schedule.took(uri, failed(), clock.0, 0.0);
        }
        let later = clock.0.at + LONGEST_WAIT;
        assert_eq!(schedule.due(later).len(), FAILING_AT_A_TIME);
        let mut more: Wanted = names.iter().map(|uri| (Text::from(*uri), SHORTEST_WAIT)).collect();
        more.insert("http://new/".into(), SHORTEST_WAIT);
        schedule.want(&more, clock.0);
        assert_eq!(&*schedule.due(later)[0].uri, "http://new/");
    }

    #[test]
    fn too_many_uris_take_nothing_from_those_before() {
        let clock = Clock::new();
        let mut schedule = schedule(&["http://z/"], clock.0);
        let many = (0..MAX_URIS).map(|number| format!("http://{number:04}/"));
        let mut wanted: Wanted = many.map(|uri| (uri.into(), SHORTEST_WAIT)).collect();
        wanted.insert("http://z/".into(), SHORTEST_WAIT);
        let news = schedule.want(&wanted, clock.0);
        assert_eq!(news.len(), 1);
        assert_ne!(&*news[0].uri, "http://z/");
        assert!(news[0].state.failure.as_ref().unwrap().reason.contains("500 other URIs"));
        assert!(schedule.want(&wanted, clock.0).is_empty(), "told once");
    }

    #[test]
    fn what_nobody_wants_any_more_is_dropped_also_while_it_is_fetched() {
        let clock = Clock::new();
        let mut schedule = schedule(&[URI], clock.0);
        schedule.due(clock.0.at);
        schedule.want(&Wanted::new(), clock.0);
        assert_eq!(schedule.took(URI, Ok(keys("a")), clock.0, 0.5), None);
        assert_eq!((schedule.next(clock.0.at), schedule.counts()), (None, Counts::default()));
    }
}
