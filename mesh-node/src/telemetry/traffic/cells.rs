//! The numbers of one series on one core: written by that core only, read by a scrape.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Numbers of a connection series.
pub const CONNECTION: usize = 6;
/// Connections opened.
pub const OPENED: usize = 0;
/// Connections closed.
pub const CLOSED: usize = 1;
/// Bytes from the called side to the caller.
pub const SENT: usize = 2;
/// Bytes from the caller to the called side.
pub const RECEIVED: usize = 3;
/// Connections that were refused or could not be made.
pub const FAILED: usize = 4;
/// Connections opened here whose end another series counted.
pub const CLOSED_ELSEWHERE: usize = 5;

/// Upper bounds of the duration's buckets, in microseconds: Envoy's defaults, which Istio's boards know.
pub const BOUNDS: [u64; 19] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];
/// The bucket of what is over every bound.
pub const UNBOUNDED: usize = BOUNDS.len();
/// Sum of the durations, in microseconds.
pub const SUM: usize = UNBOUNDED + 1;
/// Numbers of a request series.
pub const REQUEST: usize = SUM + 1;

/// Numbers of a series of calls' messages.
pub const MESSAGES: usize = 2;
/// Messages of callers.
pub const REQUEST_MESSAGES: usize = 0;
/// Messages of applications.
pub const RESPONSE_MESSAGES: usize = 1;

/// Numbers of one series on one core.
pub struct Cells<const N: usize> {
    numbers: [AtomicU64; N],
    /// The series was evicted: resolve it again before counting more.
    retired: AtomicBool,
    /// Several series are counted here, for want of room.
    is_other: bool,
}

/// Numbers of a connection series.
pub type ConnectionCells = Cells<CONNECTION>;
/// Numbers of a request series.
pub type RequestCells = Cells<REQUEST>;
/// Numbers of a series of calls' messages.
pub type MessageCells = Cells<MESSAGES>;

impl<const N: usize> Cells<N> {
    /// Makes cells that have counted nothing, of one series or of all that found no room.
    pub fn new(is_other: bool) -> Self {
        let numbers = std::array::from_fn(|_| AtomicU64::new(0));
        Self { numbers, retired: AtomicBool::new(false), is_other }
    }

    /// Adds to a number. Only one thread writes these cells, so a load and a store are enough: no bus lock.
    pub fn add(&self, number: usize, amount: u64) {
        let cell = &self.numbers[number];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Returns every number.
    pub fn read(&self) -> [u64; N] {
        std::array::from_fn(|number| self.numbers[number].load(Ordering::Relaxed))
    }

    /// Returns whether the series was evicted.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Returns whether its series has room of its own.
    pub fn is_settled(&self) -> bool {
        !self.is_other && !self.is_retired()
    }

    /// Says that the series was evicted.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }
}

impl MessageCells {
    /// Counts messages: callers', applications'.
    pub fn messages(&self, [request, response]: [u64; 2]) {
        self.add(REQUEST_MESSAGES, request);
        self.add(RESPONSE_MESSAGES, response);
    }
}

impl RequestCells {
    /// Counts a request.
    pub fn request(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.add(BOUNDS.partition_point(|bound| *bound < micros), 1);
        self.add(SUM, micros);
    }
}
