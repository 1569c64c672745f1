//! The names of what is measured.

pub const P50_AT_1: &str = "p50 us at 1";
pub const P99_AT_1: &str = "p99 us at 1";
pub const RATE_AT_32: &str = "requests/s at 32";
pub const RATE_AT_256: &str = "requests/s at 256";
pub const CPU_AT_32: &str = "CPU s per 100k at 32";
pub const CPU_AT_256: &str = "CPU s per 100k at 256";
pub const PROXIES_AT_32: &str = "of it the proxies, at 32";
pub const PROXIES_AT_256: &str = "of it the proxies, at 256";
pub const NEW_CONNECTIONS: &str = "new connections/s";
pub const BULK: &str = "bulk Gbit/s";
pub const P50_BESIDE_BULK: &str = "p50 us at 1 beside bulk";
pub const BESIDE_BULK_TO_QUIET: &str = "p50 beside bulk / quiet";
pub const MEMORY_IDLE: &str = "MB idle";
pub const MEMORY_HELD: &str = "MB with idle connections";
pub const MEMORY_EACH: &str = "kB per idle connection";
pub const ROUND_TRIP: &str = "connect us";
pub const FIRST_BYTE: &str = "first byte us";
pub const FIRST_BYTE_UNDECLARED: &str = "first byte us, undeclared";
pub const DETECTION_ADDS: &str = "undeclared - declared, us";
pub const DETECTION_ROUND_TRIPS: &str = "the same in round trips";
