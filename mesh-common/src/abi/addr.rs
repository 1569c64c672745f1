//! Addresses and ports in the one form that both sides use.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::layout::abi_layout;

const MAPPED_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// An IP address: 16 bytes in network order, IPv4 in the mapped form (RFC 4291 section 2.5.5.2).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct IpKey {
    octets: [u8; 16],
}

/// A TCP port: two bytes in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Port {
    octets: [u8; 2],
}

abi_layout!(IpKey { octets: [u8; 16] } size 16 align 1);
abi_layout!(Port { octets: [u8; 2] } size 2 align 1);

impl IpKey {
    /// `::`, which also stands for "no address".
    pub const UNSPECIFIED: Self = Self { octets: [0; 16] };
    /// 127.0.0.1, mapped.
    pub const LOOPBACK_V4: Self = Self::from_v4([127, 0, 0, 1]);
    /// `::1`.
    pub const LOOPBACK_V6: Self = Self { octets: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] };

    /// From the four bytes of an IPv4 address, in network order.
    #[inline(always)]
    pub const fn from_v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self { octets: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] }
    }

    /// From 16 bytes in network order.
    #[inline(always)]
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        Self { octets }
    }

    /// The 16 bytes in network order.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 16] {
        self.octets
    }

    /// The four bytes of an IPv4 address; meaningless unless [`is_v4`](Self::is_v4).
    #[inline(always)]
    pub const fn v4_octets(self) -> [u8; 4] {
        [self.octets[12], self.octets[13], self.octets[14], self.octets[15]]
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub fn is_v4(self) -> bool {
        let [high, low] = self.words();
        high == 0 && (low >> 32) == 0xffff
    }

    /// Whether this is `::` or 0.0.0.0.
    #[inline(always)]
    pub fn is_unspecified(self) -> bool {
        let [high, low] = self.words();
        high == 0 && (low == 0 || low == 0xffff_0000_0000)
    }

    /// Whether this is `::1` or in 127.0.0.0/8.
    #[inline(always)]
    pub fn is_loopback(self) -> bool {
        let [high, low] = self.words();
        high == 0 && (low == 1 || (low >> 24) == 0xff_ff7f)
    }

    /// Whether both are the same address, compared as two words: what the verifier likes best.
    #[inline(always)]
    pub fn same_as(self, other: Self) -> bool {
        self.words() == other.words()
    }

    #[inline(always)]
    fn words(self) -> [u64; 2] {
        let o = self.octets;
        [
            u64::from_be_bytes([o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7]]),
            u64::from_be_bytes([o[8], o[9], o[10], o[11], o[12], o[13], o[14], o[15]]),
        ]
    }
}

impl From<IpAddr> for IpKey {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            IpAddr::V6(v6) => Self::from_octets(v6.octets()),
        }
    }
}

impl From<IpKey> for IpAddr {
    /// The canonical form: a mapped address becomes IPv4.
    fn from(key: IpKey) -> Self {
        if key.octets[..12] == MAPPED_PREFIX {
            Self::V4(Ipv4Addr::from(key.v4_octets()))
        } else {
            Self::V6(Ipv6Addr::from(key.octets))
        }
    }
}

impl Port {
    /// Port 0, which also stands for "no port".
    pub const NONE: Self = Self { octets: [0; 2] };

    /// From a number.
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self { octets: number.to_be_bytes() }
    }

    /// From two bytes in network order.
    #[inline(always)]
    pub const fn from_octets(octets: [u8; 2]) -> Self {
        Self { octets }
    }

    /// The two bytes in network order.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 2] {
        self.octets
    }

    /// The number.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        u16::from_be_bytes(self.octets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_round_trips_through_the_mapped_form() {
        let address = IpAddr::from([10, 1, 2, 3]);
        assert_eq!(IpAddr::from(IpKey::from(address)), address);
        let mapped: IpAddr = "::ffff:10.1.2.3".parse().unwrap();
        assert_eq!(IpKey::from(mapped), IpKey::from(address));
    }

    #[test]
    fn loopback_and_unspecified_are_told_in_every_form() {
        for text in ["127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1"] {
            let address: IpAddr = text.parse().unwrap();
            assert!(IpKey::from(address).is_loopback(), "{text}");
        }
        for text in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
            let address: IpAddr = text.parse().unwrap();
            assert!(IpKey::from(address).is_unspecified(), "{text}");
        }
        for text in ["128.0.0.1", "126.0.0.1", "::2", "1::1", "fe80::1", "10.0.0.1", "::127.0.0.1"] {
            let address: IpAddr = text.parse().unwrap();
            let key = IpKey::from(address);
            assert!(!key.is_loopback() && !key.is_unspecified(), "{text}");
        }
    }

    #[test]
    fn only_mapped_addresses_are_ipv4() {
        assert!(IpKey::from_v4([1, 2, 3, 4]).is_v4());
        assert!(!IpKey::LOOPBACK_V6.is_v4());
        assert!(!IpKey::UNSPECIFIED.is_v4());
    }

    #[test]
    fn a_port_is_big_endian() {
        assert_eq!(Port::new(8080).octets(), [0x1f, 0x90]);
        assert_eq!(Port::new(8080).number(), 8080);
    }
}
