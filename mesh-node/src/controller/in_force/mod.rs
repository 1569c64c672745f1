//! In how many agents each policy is in force, whichever replica they follow.
//!
//! In: what each replica knows of its own agents. Out: a [`Standing`] for each policy, for whoever writes status.
//! Streams are split among replicas and one of them writes, so each replica notes what it knows in the ConfigMap
//! `nodemesh-in-force`: `entry` is what it notes, `record` writes and reads it, `audience` says which nodes need a policy,
//! and `standing` puts all of it together. All but `record` are pure.
//!
//! **An entry is about what is not in force.** 10,000 policies in 1,000 agents are ten million facts, and nearly all of
//! them say yes. So an entry has the nodes whose agents follow the replica, and the exceptions: which policy which of them
//! are behind on, or refuse. Where there is no exception a policy is in force, if the replica had seen the policy as it is
//! now: that is what the fingerprints are for, one for each of 128 heaps of policies, over uid and generation of all in the
//! heap. Where reader and writer have not seen the same, nothing is known of that heap, for the seconds that it lasts.
//!
//! An entry has some 14 kB for 1,000 agents, and never more than some 200 kB: 12 bytes for a node, 2 kB of fingerprints, 64 kB
//! of exceptions; what is more is not named, and then nothing is known of policies that are not named. It is written when it
//! says something else, at most every 2 s, and every 10 s so that readers see that the replica lives. So an edit of all
//! policies is a few writes, whatever the number of policies and agents.
//!
//! **What is counted.** An agent is needed if it is there (its pod is) and a pod of its node is one that the policy may be
//! about. It counts as having the policy in force while it follows a replica that lives, and has answered all that it was
//! sent of the policy as it is now, without refusing it. One that follows nobody does not count, whatever it has: nobody
//! can tell.

mod audience;
mod entry;
mod record;
mod standing;

pub(super) use self::audience::Audience;
pub(super) use self::record::{Noter, Picture, Reader};
pub(super) use self::standing::{Named, Said, Standing};

/// Most nodes that are named of one policy, for one reason.
pub(super) const MAX_NAMED: usize = 3;
