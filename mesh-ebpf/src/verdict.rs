//! The one table from a verdict to a return code. Every verdict is counted here, and refusals are recorded.
//!
//! | hook | on refusal | while the daemon is dead | open or closed |
//! |---|---|---|---|
//! | connect | EPERM | enrolled pods: refused (no listener) | closed: nothing leaves in the clear |
//! | sock_create | EPERM | as before | closed |
//! | sk_lookup | SK_DROP, which answers a SYN with a reset | enrolled pods: refused (no listener) | closed |
//! | getpeername, getsockname | never | real addresses of new sockets | open: names decide nothing |
//! | host connect, sock_ops | never | as before | closed: a lost record makes a stranger, not a friend |

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use mesh_common::abi::verdict::Verdict;

use crate::record::{self, Refusal};

/// Name hooks cannot refuse: the verifier asks for this value.
pub const NAME_SHOWN: i32 = 1;
/// The host's own connects always pass.
pub const HOST_CONNECT_PASSES: i32 = 1;
/// `sock_ops` has no say.
pub const SOCK_OPS_DONE: u32 = 1;

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;

/// What a program found out: the verdict, and for a refusal what it was about.
pub type Judgement = Result<Verdict, Refusal>;

/// The return code of connect.
#[inline(always)]
pub fn of_connect(judgement: Judgement) -> i32 {
    if counted(judgement) { ALLOW } else { REFUSE }
}

/// The return code of `sock_create`.
#[inline(always)]
pub fn of_create(judgement: Judgement) -> i32 {
    if counted(judgement) { ALLOW } else { REFUSE }
}

/// The return code of `sk_lookup`.
#[inline(always)]
pub fn of_lookup(judgement: Judgement) -> u32 {
    if counted(judgement) { SK_PASS } else { SK_DROP }
}

#[inline(always)]
fn counted(judgement: Judgement) -> bool {
    match judgement {
        Ok(verdict) => {
            record::count(verdict);
            true
        }
        Err(refusal) => {
            record::count(refusal.verdict);
            record::refusal(&refusal);
            false
        }
    }
}
