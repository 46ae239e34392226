//! Another answer in place of one that was recorded.

use std::net::IpAddr;

use failcore_model::heard::{End, Field, Payload, Said};
use failcore_model::input::{Input, Moment, Told};
use failcore_model::{Event, Text};

use crate::store::sha256;

/// `EAI_NONAME`, as in netdb.h of every C library for Linux: there is no such name.
const NO_NAME: i32 = -2;

/// Has an event tell something else: a file, a response and the standard input hold these bytes, a host has these addresses
/// (none, where none is there), a clock says so many seconds, and random bytes are these, of the same number.
///
/// What is kept beside the event is named by its SHA-256 then, which is returned.
///
/// # Errors
/// In words, where the event is no such answer, or the bytes make none.
pub(crate) fn put(event: &mut Event, bytes: &[u8]) -> Result<Option<String>, &'static str> {
    let (hash, length) = (sha256(bytes), bytes.len() as u64);
    match event {
        Event::Input { input: Input::Contents { sha256, size, kept }, .. } => {
            (*sha256, *size, *kept) = (hash.clone(), length, true);
        }
        Event::Input { input: Input::Stdin { sha256, size, kept, at }, .. } => {
            (*sha256, *size, *kept) = (hash.clone(), length, true);
            *at = at.map(|_| 0);
        }
        Event::Heard { said: Said::Response { fields, end, .. }, payload: Some(payload), .. } => {
            let is = |field: &Field, name: &str| field.name.as_bytes().eq_ignore_ascii_case(name.as_bytes());
            // What it says of how it is packed is not true of these.
            fields.retain(|field| !is(field, "content-encoding"));
            for field in fields.iter_mut().filter(|field| is(field, "content-length")) {
                field.value = Text::from(length.to_string().as_str());
            }
            (*end, *payload) = (End::Whole, Payload { sha256: hash.clone(), size: length, kept: true });
        }
        Event::Heard { said: said @ (Said::Addresses { .. } | Said::NoAddresses { .. }), .. } => {
            *said = addresses(bytes).ok_or("a host has IP addresses, with commas between them")?;
            return Ok(None);
        }
        Event::Told { told: Told::Clock { at, .. }, .. } => {
            *at = moment(bytes).ok_or("a clock says seconds, such as 1735689600.25")?;
            return Ok(None);
        }
        Event::Told { told: Told::Random { bytes: given }, .. } => {
            if given.as_bytes().len() != bytes.len() {
                return Err("there must be as many random bytes as were asked for");
            }
            *given = Text::from(bytes);
            return Ok(None);
        }
        _ => {
            return Err("it is no answer: not what a file or the standard input held, not a response, not \
             the addresses of a host, not what a clock said, not random bytes");
        }
    }
    Ok(Some(hash))
}

fn addresses(bytes: &[u8]) -> Option<Said> {
    let text = str::from_utf8(bytes).ok()?.trim();
    if text.is_empty() {
        return Some(Said::NoAddresses { code: NO_NAME, message: "Name or service not known".into() });
    }
    let addrs: Option<Vec<IpAddr>> = text.split(',').map(|addr| addr.trim().parse().ok()).collect();
    Some(Said::Addresses { addrs: addrs?, aliases: Vec::new(), ttl: None })
}

fn moment(bytes: &[u8]) -> Option<Moment> {
    let text = str::from_utf8(bytes).ok()?.trim();
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > 9 {
        return None;
    }
    Some(Moment { s: whole.parse().ok()?, ns: format!("{part:0<9}").parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_read_to_the_nanosecond_and_nothing_else_is() {
        for (text, s, ns) in
            [("0", 0, 0), ("12.5", 12, 500_000_000), ("1735689600.000000001\n", 1_735_689_600, 1)]
        {
            assert_eq!(moment(text.as_bytes()), Some(Moment { s, ns }), "{text}");
        }
        for text in ["", "-1", "1.0000000001", "1.-5", "1,5", "2026-01-01", "+1", "-0.5", "."] {
            assert_eq!(moment(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn addresses_are_read_with_commas_between_them() {
        let found = |text: &str| addresses(text.as_bytes());
        let addrs = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(
            found("192.0.2.1, 2001:db8::1\n"),
            Some(Said::Addresses { addrs, aliases: Vec::new(), ttl: None })
        );
        assert!(matches!(found(" "), Some(Said::NoAddresses { code: NO_NAME, .. })));
        assert_eq!(found("192.0.2.1;192.0.2.2"), None);
    }
}
