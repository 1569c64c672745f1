//! All series of one kind: found by text, bounded, added up over the cores.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::RequestOutcome;
use super::cells::{CLOSED, CLOSED_ELSEWHERE, CONNECTION, Cells, OPENED};
use super::names::Names;

/// A series that counted nothing for this long may make room for another one.
const IDLE: Duration = Duration::from_secs(600);

/// A full table is searched for idle series no more often than this.
const SEARCH_EVERY: Duration = Duration::from_secs(10);

/// Everything that tells a series from every other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Series {
    pub names: Names,
    pub outcome: RequestOutcome,
}

/// A series with its numbers, added up over the cores.
pub type Sum<const N: usize> = (Arc<Series>, [u64; N]);

/// All series of one kind.
pub struct Table<const N: usize> {
    series: HashMap<Arc<Series>, Entry<N>>,
    /// Where series are counted that found no room. Bounded by what its labels may be.
    other: HashMap<Arc<Series>, Entry<N>>,
    retired: Vec<Retired<N>>,
    cores: usize,
    searched: Option<Instant>,
}

struct Entry<const N: usize> {
    /// One for each core, made when it is first needed.
    cells: Vec<Option<Arc<Cells<N>>>>,
    /// What evicted series had counted.
    inherited: [u64; N],
    /// What a search found last, and when that was new.
    seen: [u64; N],
    changed: Option<Instant>,
}

/// Cells of an evicted series that a core may still write.
struct Retired<const N: usize> {
    heir: Arc<Series>,
    cells: Arc<Cells<N>>,
    /// What the heir has inherited of them already.
    inherited: [u64; N],
}

impl Series {
    fn other(&self) -> Self {
        let RequestOutcome { code, .. } = self.outcome;
        let outcome = RequestOutcome { code: code / 100 * 100, ..self.outcome };
        Self { names: self.names.other(), outcome }
    }
}

impl<const N: usize> Table<N> {
    /// Makes an empty table.
    pub fn new(cores: usize) -> Self {
        Self { series: HashMap::new(), other: HashMap::new(), retired: Vec::new(), cores, searched: None }
    }

    /// Returns how many series take room.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Returns one core's cells of a series, and whether it is counted under its own name.
    pub fn cells(&mut self, series: &Series, core: usize, has_room: bool) -> (Arc<Cells<N>>, bool) {
        let fits = has_room || self.series.contains_key(series);
        let (entries, series) =
            if fits { (&mut self.series, series.clone()) } else { (&mut self.other, series.other()) };
        let entry = entries.entry(Arc::new(series)).or_insert_with(|| Entry::new(self.cores));
        let cells = entry.cells[core].get_or_insert_with(|| Arc::new(Cells::new(!fits)));
        (Arc::clone(cells), fits)
    }

    /// Evicts idle series if `series` is new and nothing is free; returns how many went.
    pub fn make_room(&mut self, series: &Series, taken: usize, limit: usize, now: Instant) -> u64 {
        let is_needed = taken >= limit && !self.series.contains_key(series);
        let was_searched = self.searched.is_some_and(|searched| now < searched + SEARCH_EVERY);
        if !is_needed || was_searched {
            return 0;
        }
        self.searched = Some(now);
        let evicted: Vec<(Arc<Series>, Entry<N>)> =
            self.series.extract_if(|_, entry| entry.is_idle(now)).collect();
        let count = evicted.len() as u64;
        for (series, entry) in evicted {
            self.retire(&series, entry);
        }
        count
    }

    /// Returns every series with its sums.
    pub fn sums(&mut self) -> Vec<Sum<N>> {
        self.inherit();
        let entries = self.series.iter().chain(&self.other);
        entries.map(|(series, entry)| (Arc::clone(series), entry.sum())).collect()
    }

    fn retire(&mut self, series: &Series, entry: Entry<N>) {
        let heir = Arc::new(series.other());
        let heir_entry = self.other.entry(Arc::clone(&heir)).or_insert_with(|| Entry::new(self.cores));
        add(&mut heir_entry.inherited, &entry.inherited);
        for cells in entry.cells.into_iter().flatten() {
            cells.retire();
            self.retired.push(Retired { heir: Arc::clone(&heir), cells, inherited: [0; N] });
        }
        self.inherit();
    }

    /// Gives what retired cells have counted since to their heirs; forgets cells that no core holds.
    fn inherit(&mut self) {
        let Self { retired, other, .. } = self;
        retired.retain_mut(|retired| {
            // Asked before reading: what a core that has let go had written is seen then.
            let is_held = Arc::get_mut(&mut retired.cells).is_none();
            let counted = retired.cells.read();
            if let Some(heir) = other.get_mut(&retired.heir) {
                let fresh = std::array::from_fn(|number| counted[number] - retired.inherited[number]);
                add(&mut heir.inherited, &fresh);
            }
            retired.inherited = counted;
            is_held
        });
    }
}

impl<const N: usize> Entry<N> {
    fn new(cores: usize) -> Self {
        Self { cells: vec![None; cores], inherited: [0; N], seen: [0; N], changed: None }
    }

    fn sum(&self) -> [u64; N] {
        let mut sum = self.inherited;
        for cells in self.cells.iter().flatten() {
            add(&mut sum, &cells.read());
        }
        sum
    }

    fn is_idle(&mut self, now: Instant) -> bool {
        let sum = self.sum();
        let changed = match self.changed {
            Some(changed) if self.seen == sum => changed,
            _ => now,
        };
        (self.seen, self.changed) = (sum, Some(changed));
        // A connection that is open is not idle, whatever it carries. Requests hold nothing.
        let is_open = N == CONNECTION && sum[OPENED] > sum[CLOSED] + sum[CLOSED_ELSEWHERE];
        !is_open && now >= changed + IDLE
    }
}

fn add<const N: usize>(sum: &mut [u64; N], more: &[u64; N]) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = sum.wrapping_add(*more);
    }
}
