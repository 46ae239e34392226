//! Connections to servers that nobody uses just now, kept for whoever speaks with the same server next.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::far::Link;
use crate::lock;

/// Connections that are kept; with more, the one that waited longest is closed.
const MOST: usize = 64;
/// How long one is kept, which is shorter than most servers keep theirs.
const LONGEST: Duration = Duration::from_secs(15);

/// Connections that wait for their next request.
///
/// # Security
/// Each was made to an address, and its server has proved to be of that name; it serves nobody else. What is sent on it is
/// judged request by request, whoever sends it.
#[derive(Default)]
pub(crate) struct Idle(Mutex<VecDeque<Kept>>);

struct Kept {
    at: SocketAddr,
    name: String,
    /// What it speaks, as TLS names it; nothing where that was not said.
    agreed: Option<Vec<u8>>,
    link: Link,
    since: Instant,
}

impl Idle {
    /// Keeps one, if it can take a request.
    pub(crate) fn put(&self, at: SocketAddr, name: String, agreed: Option<Vec<u8>>, link: Link) {
        if !link.is_ready() {
            return;
        }
        let mut all = lock(&self.0);
        all.push_back(Kept { at, name, agreed, link, since: Instant::now() });
        if all.len() > MOST {
            all.pop_front();
        }
    }

    /// Takes one that speaks any of these protocols, the last that was put in first.
    pub(crate) fn take(
        &self,
        at: SocketAddr,
        name: &str,
        spoken: &[Vec<u8>],
    ) -> Option<(Link, Option<Vec<u8>>)> {
        let mut all = lock(&self.0);
        all.retain(|kept| kept.since.elapsed() < LONGEST && kept.link.is_ready());
        let fits = |kept: &Kept| {
            kept.at == at
                && kept.name == *name
                && kept.agreed.as_ref().is_none_or(|agreed| spoken.contains(agreed))
        };
        let nth = all.iter().rposition(fits)?;
        all.remove(nth).map(|kept| (kept.link, kept.agreed))
    }
}
