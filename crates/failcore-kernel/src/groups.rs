//! Joining a group of receivers: a socket then hears what is sent to the group's address, and the kernel tells the
//! network that it does, in packets that bear the address (RFC 3376, RFC 3810). So it is judged as a bind to it.

#![allow(unsafe_code, reason = "setsockopt with structures of several kinds; the block says why it is sound")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use failcore_gate::SockAddr;
use failcore_model::{Action, Endpoint};
use rustix::io::Errno;

use crate::call::{Call, DONE, Reply};
use crate::memory;
use crate::notify::last;
use crate::sockets::{Socket, local};
use crate::walk::View;

/// Options that join a group, of both levels (ip(7), ipv6(7), RFC 3678); 20 is `IPV6_JOIN_GROUP`.
pub(crate) const JOIN_V4: [i32; 2] = [libc::IP_ADD_MEMBERSHIP, libc::IP_ADD_SOURCE_MEMBERSHIP];
pub(crate) const JOIN_V6: i32 = 20;
pub(crate) const JOIN_ANY: [i32; 2] = [42, 46]; // MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP

/// The longest of their structures: `struct group_source_req`.
const MOST: usize = 264;
/// Where the address stands in `struct group_req` and `struct group_source_req`, after the interface.
const AFTER_INTERFACE: usize = 8;
/// Size of `struct sockaddr_storage`.
const STORAGE: usize = 128;

/// `setsockopt(fd, level, option, value, length)` of an option that joins a group.
pub(crate) fn join(call: &Call<'_>) -> Reply {
    let length = usize::try_from(call.int(4)).map_err(|_| Errno::INVAL)?;
    // The kernel reads no further than its structure, whatever the length says.
    let value = memory::bytes(call.tid(), call.arg(3), length.min(MOST))?;
    let (level, option) = (call.int(1), call.int(2));
    let group = group(level, option, &value).ok_or(Errno::INVAL)?;
    let socket = Socket::of(call, call.int(0))?;
    let port = match SockAddr::decode(&local(&socket)?) {
        SockAddr::Inet(addr) => addr.port(),
        _ => return Err(Errno::NOPROTOOPT),
    };
    let at = Endpoint::Inet { transport: socket.transport(), addr: SocketAddr::new(group, port) };
    let grant = call.judge(Action::Bind(at))?;
    // SAFETY: the kernel reads as many bytes as the live vector has.
    let joined = unsafe {
        libc::setsockopt(
            socket.fd.as_raw_fd(),
            level,
            option,
            value.as_ptr().cast(),
            libc::socklen_t::try_from(value.len()).unwrap_or(0),
        )
    };
    call.concluded(grant, if joined == 0 { Ok(()) } else { Err(last()) })?;
    DONE
}

/// The group's address in the structure that goes with an option; nothing where it is too short for it.
fn group(level: i32, option: i32, value: &[u8]) -> Option<IpAddr> {
    if JOIN_ANY.contains(&option) {
        return match SockAddr::decode(value.get(AFTER_INTERFACE..AFTER_INTERFACE + STORAGE)?) {
            SockAddr::Inet(addr) => Some(addr.ip()),
            _ => None,
        };
    }
    if level == libc::IPPROTO_IPV6 {
        return Some(Ipv6Addr::from(*value.first_chunk::<16>()?).into());
    }
    Some(Ipv4Addr::from(*value.first_chunk::<4>()?).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_group_is_found_in_each_structure() {
        let v4 = IpAddr::from([224, 0, 0, 251]);
        let v6: IpAddr = "ff02::fb".parse().unwrap();
        let four = [224, 0, 0, 251, 127, 0, 0, 1, 9, 9, 9, 9];
        for (option, length) in [(JOIN_V4[0], 8), (JOIN_V4[0], 12), (JOIN_V4[1], 12)] {
            assert_eq!(group(libc::IPPROTO_IP, option, &four[..length]), Some(v4));
        }
        assert_eq!(group(libc::IPPROTO_IP, JOIN_V4[0], &four[..3]), None);
        let mut six = Ipv6Addr::to_bits("ff02::fb".parse().unwrap()).to_be_bytes().to_vec();
        assert_eq!(group(libc::IPPROTO_IPV6, JOIN_V6, &six), Some(v6));
        assert_eq!(group(libc::IPPROTO_IPV6, JOIN_V6, &six[..15]), None);
        six.extend([1, 0, 0, 0]);
        assert_eq!(group(libc::IPPROTO_IPV6, JOIN_V6, &six), Some(v6));
        for (addr, level) in [("224.0.0.251:9", libc::IPPROTO_IP), ("[ff02::fb]:9", libc::IPPROTO_IPV6)] {
            let mut request = vec![1, 0, 0, 0, 0, 0, 0, 0];
            let addr: SocketAddr = addr.parse().unwrap();
            request.extend(crate::sockets::inet(addr));
            request.resize(MOST, 0);
            for (option, length) in [(JOIN_ANY[0], 136), (JOIN_ANY[1], 264)] {
                assert_eq!(group(level, option, &request[..length]), Some(addr.ip()));
                assert_eq!(group(level, option, &request[..100]), None);
            }
            request[8] = 1;
            assert_eq!(group(level, JOIN_ANY[0], &request), None, "a unix socket is no group");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_group_or_none(
            level in any::<i32>(), option in any::<i32>(), value in prop::collection::vec(any::<u8>(), 0..MOST),
        ) {
            let _ = group(level, option, &value);
        }
    }
}
