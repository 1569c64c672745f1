//! The kernel programs: entry points only.
//!
//! A program reads its context, looks up, and reaches a verdict; `verdict` alone turns that into a return code and
//! counts it. Nothing is decided here that user space has not decided.
//!
//! | entry | attached to | lowest kernel | below it |
//! |---|---|---|---|
//! | `connect4`, `connect6` | pods' cgroup | 5.15 (`bpf_setsockopt` in connect, socket storage) | the agent does not start |
//! | `getpeername4/6`, `getsockname4/6` | pods' cgroup | 5.8 | the agent does not start |
//! | `sock_create` | pods' cgroup | 4.10; netns cookie 5.7 | the agent does not start |
//! | `sock_ops`, `host_connect4/6` | top of the cgroup tree | 5.15 (`bpf_get_netns_cookie` in sock_ops) | the agent does not start |
//! | `deliver_inbound` (sk_lookup) | each enrolled network namespace | 5.9 | the agent does not start |
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod capture;
#[cfg(target_arch = "bpf")]
mod context;
#[cfg(target_arch = "bpf")]
mod create;
#[cfg(target_arch = "bpf")]
mod deliver;
#[cfg(target_arch = "bpf")]
mod flow;
#[cfg(target_arch = "bpf")]
mod globals;
#[cfg(target_arch = "bpf")]
mod lookup;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod names;
#[cfg(target_arch = "bpf")]
mod probe;
#[cfg(target_arch = "bpf")]
mod record;
#[cfg(target_arch = "bpf")]
mod verdict;

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, sk_lookup, sock_ops};
    use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockContext, SockOpsContext};

    use crate::context::{ConnectV4, ConnectV6};
    use crate::{capture, create, deliver, flow, names, probe, verdict};

    #[cgroup_sock_addr(connect4)]
    fn connect4(ctx: SockAddrContext) -> i32 {
        verdict::of_connect(capture::connect::<ConnectV4>(&ctx))
    }

    #[cgroup_sock_addr(connect6)]
    fn connect6(ctx: SockAddrContext) -> i32 {
        verdict::of_connect(capture::connect::<ConnectV6>(&ctx))
    }

    #[cgroup_sock_addr(getpeername4)]
    fn getpeername4(ctx: SockAddrContext) -> i32 {
        names::show_peer::<ConnectV4>(&ctx);
        verdict::NAME_SHOWN
    }

    #[cgroup_sock_addr(getpeername6)]
    fn getpeername6(ctx: SockAddrContext) -> i32 {
        names::show_peer::<ConnectV6>(&ctx);
        verdict::NAME_SHOWN
    }

    #[cgroup_sock_addr(getsockname4)]
    fn getsockname4(ctx: SockAddrContext) -> i32 {
        names::show_local::<ConnectV4>(&ctx);
        verdict::NAME_SHOWN
    }

    #[cgroup_sock_addr(getsockname6)]
    fn getsockname6(ctx: SockAddrContext) -> i32 {
        names::show_local::<ConnectV6>(&ctx);
        verdict::NAME_SHOWN
    }

    #[cgroup_sock_addr(connect4)]
    fn host_connect4(ctx: SockAddrContext) -> i32 {
        probe::mark::<ConnectV4>(&ctx);
        verdict::HOST_CONNECT_PASSES
    }

    #[cgroup_sock_addr(connect6)]
    fn host_connect6(ctx: SockAddrContext) -> i32 {
        probe::mark::<ConnectV6>(&ctx);
        verdict::HOST_CONNECT_PASSES
    }

    #[cgroup_sock(sock_create)]
    fn sock_create(ctx: SockContext) -> i32 {
        verdict::of_create(create::judge(&ctx))
    }

    #[sock_ops]
    fn sock_ops(ctx: SockOpsContext) -> u32 {
        flow::follow(&ctx);
        verdict::SOCK_OPS_DONE
    }

    #[sk_lookup]
    fn deliver_inbound(ctx: SkLookupContext) -> u32 {
        verdict::of_lookup(deliver::deliver(&ctx))
    }

    /// Never called: the programs have no panics the compiler could not remove, and the verifier refuses a loop.
    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
