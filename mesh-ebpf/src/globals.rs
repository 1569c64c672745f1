//! Values that the agent sets before it loads the programs, read-only afterwards.

use core::ptr;

/// Id of the agent's own cgroup: its sockets are never captured. 0 matches no cgroup.
#[unsafe(no_mangle)]
static AGENT_CGROUP: u64 = 0;

/// Cookie of the host's network namespace, which is never enrolled.
#[unsafe(no_mangle)]
static HOST_NETNS: u64 = 0;

/// Id of the cgroup that holds every pod.
#[unsafe(no_mangle)]
static PODS_CGROUP: u64 = 0;

/// How many ancestors `PODS_CGROUP` has.
#[unsafe(no_mangle)]
static PODS_LEVEL: i32 = 0;

/// 1 if connects of pods that are not known yet pass, 0 if they are refused.
#[unsafe(no_mangle)]
static UNKNOWN_PODS_PASS: u32 = 0;

macro_rules! reader {
    ($(#[$attribute:meta])* $name:ident: $kind:ty = $value:ident) => {
        $(#[$attribute])*
        #[inline(always)]
        pub fn $name() -> $kind {
            // SAFETY: the static lives as long as the program. A volatile read, because the loader writes the
            // value into the object after it was compiled.
            unsafe { ptr::read_volatile(&raw const $value) }
        }
    };
}

reader!(
    /// Id of the agent's own cgroup.
    agent_cgroup: u64 = AGENT_CGROUP
);
reader!(
    /// Cookie of the host's network namespace.
    host_netns: u64 = HOST_NETNS
);
reader!(
    /// Id of the cgroup that holds every pod.
    pods_cgroup: u64 = PODS_CGROUP
);
reader!(
    /// How many ancestors that cgroup has.
    pods_level: i32 = PODS_LEVEL
);

/// Whether connects of pods that are not known yet pass.
#[inline(always)]
pub fn unknown_pods_pass() -> bool {
    // SAFETY: as in `reader!`.
    unsafe { ptr::read_volatile(&raw const UNKNOWN_PODS_PASS) != 0 }
}
