//! The only `unsafe impl Pod`, one line per type.

use aya::Pod;

use super::addr::{IpKey, Port};
use super::capture::{
    InboundPortKey, NamespaceRules, OutboundListenerKey, OutboundPortKey, OutboundRangeKey,
};
use super::flow::{FlowKey, OriginalDst, ProbeFlowKey, SocketFacts};

macro_rules! pod {
    ($($kind:ty),+ $(,)?) => {
        $(
            // SAFETY: `abi_layout!` beside the type proves that it has no padding, and its fields are integers
            // and byte arrays, for which every bit pattern is valid.
            unsafe impl Pod for $kind {}
        )+
    };
}

pod!(IpKey, Port);
pod!(NamespaceRules, OutboundListenerKey, OutboundPortKey, OutboundRangeKey, InboundPortKey);
pod!(FlowKey, OriginalDst, ProbeFlowKey, SocketFacts);
