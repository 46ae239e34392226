//! The hosts file (hosts(5)): names that a program finds without asking anybody.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;

use failcore_model::{HostName, IpClass};

/// Bytes of a hosts file that are read; the largest block lists are a tenth of it.
const MOST: u64 = 64 << 20;

/// The names of a hosts file by address, as they were when it was read.
///
/// A C library reads the file itself, inside the program, before it asks any server. So nobody is asked when such a
/// name is resolved, and the connect that follows is the first that is seen of it.
///
/// # Security
/// The file is its owner's word on what addresses are called, as the answer of the system's resolver is. Read once and
/// before the program starts, it says nothing that the program could have written there.
///
/// Names of loopback and unspecified addresses are left out: a name never grants those, and block lists give thousands
/// of names to each.
#[derive(Debug, Clone, Default)]
pub struct Hosts(BTreeMap<IpAddr, Vec<HostName>>);

impl Hosts {
    /// Reads the system's file; it has no names where it cannot be read.
    pub fn system() -> Self {
        Self::read(Path::new("/etc/hosts")).unwrap_or_default()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(MOST).read_to_end(&mut bytes)?;
        Ok(Self::parse(&bytes))
    }

    /// Reads the text of a file; lines and names that say nothing are left out, as the C library leaves them out.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut hosts: BTreeMap<IpAddr, Vec<HostName>> = BTreeMap::new();
        for line in bytes.split(|byte| *byte == b'\n') {
            let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
            // What is not text becomes a character that no name has.
            let line = String::from_utf8_lossy(line);
            let mut words = line.split_ascii_whitespace();
            let addr = words.next().and_then(|addr| addr.split('%').next()?.parse::<IpAddr>().ok());
            let Some(addr) = addr.map(|addr| addr.to_canonical()) else { continue };
            if matches!(IpClass::of(addr), IpClass::Loopback | IpClass::Unspecified) {
                continue;
            }
            for name in words.filter_map(|name| HostName::parse(name).ok()) {
                let names = hosts.entry(addr).or_default();
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        Self(hosts)
    }

    /// The names of an address.
    pub fn names(&self, addr: IpAddr) -> &[HostName] {
        self.0.get(&addr.to_canonical()).map(Vec::as_slice).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(hosts: &Hosts, addr: &str) -> Vec<String> {
        hosts.names(addr.parse().unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn lines_are_read_as_the_c_library_reads_them() {
        let hosts = Hosts::parse(
            b"# comment\n127.0.0.1 localhost\n\n 1.2.3.4\tone.example  One.Example. uno # and more\n\
              ::ffff:1.2.3.4 four.example\n2001:db8::1%eth0 six.example\nnonsense here\n1.2.3.4\n\
              1.2.3 short.example\n0.0.0.0 blocked.example\n5.6.7.8 a..b b\xc3\xbccher.example \xff kept\n\
              9.9.9.9 last.example\r\n8.8.8.8 no.newline",
        );
        assert_eq!(names(&hosts, "1.2.3.4"), ["one.example", "uno", "four.example"]);
        assert_eq!(names(&hosts, "::ffff:1.2.3.4"), ["one.example", "uno", "four.example"]);
        assert_eq!(names(&hosts, "2001:db8::1"), ["six.example"]);
        assert_eq!(names(&hosts, "5.6.7.8"), ["xn--bcher-kva.example", "kept"]);
        assert_eq!(names(&hosts, "9.9.9.9"), ["last.example"]);
        assert_eq!(names(&hosts, "8.8.8.8"), ["no.newline"]);
        for addr in ["127.0.0.1", "0.0.0.0", "1.2.0.3", "5.6.7.9"] {
            assert!(names(&hosts, addr).is_empty(), "{addr}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_some_hosts_file(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Hosts::parse(&bytes);
        }
    }
}
