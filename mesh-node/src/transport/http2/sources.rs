//! How many connections are open from each address.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

/// Addresses that have a connection open, with how many they have.
#[derive(Debug, Default)]
pub(super) struct Sources(RefCell<HashMap<IpAddr, usize>>);

/// One connection of an address, counted until it is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Counted {
    sources: Rc<Sources>,
    address: IpAddr,
}

impl Sources {
    /// Counts one more connection, if the address has fewer than `most`.
    pub(super) fn take(self: &Rc<Self>, address: IpAddr, most: usize) -> Option<Counted> {
        let mut sources = self.0.borrow_mut();
        let open = sources.get(&address).copied().unwrap_or_default();
        (open < most).then(|| {
            sources.insert(address, open + 1);
            Counted { sources: self.clone(), address }
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut sources = self.sources.0.borrow_mut();
        if let Some(open) = sources.get_mut(&self.address) {
            *open -= 1;
            if *open == 0 {
                sources.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn each_address_has_its_own_bound_and_gets_back_what_it_gives_back() {
        let sources = Rc::<Sources>::default();
        let held = sources.take(ONE, 1).unwrap();
        assert!(sources.take(ONE, 1).is_none());
        assert!(sources.take(OTHER, 1).is_some());
        drop(held);
        assert!(sources.0.borrow().is_empty(), "nothing is kept of who is gone");
        assert!(sources.take(ONE, 1).is_some());
    }
}
