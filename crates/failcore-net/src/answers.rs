//! What of a name server's answer belongs to its question: the chain of aliases from the name, and the records at its
//! end. All else that an answer may carry is left out.

use failcore_model::{HostError, HostName};
use hickory_proto::rr::rdata::svcb::{Mandatory, SVCB, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{CNAME, HTTPS};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// Aliases that are followed, as resolvers do (RFC 1034 section 3.6.2 asks for some bound).
const MOST_ALIASES: usize = 8;
/// Records of one answer that are taken, so that no name crowds the others out of what they are kept in.
pub(crate) const MOST_RECORDS: usize = 256;

/// A name's answer, as far as it is known.
#[derive(Debug, Clone)]
pub struct Chain {
    kind: RecordType,
    end: Name,
    aliases: Vec<HostName>,
    seen: Vec<Name>,
    ttl: u32,
    records: Vec<Record>,
}

/// Why an answer is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoChain {
    /// It leads back to where it was, or on and on.
    #[error("its aliases lead in a circle, or too far")]
    Circle,
    /// It leads to what is no host name, as a label with a NUL or a dot in it.
    #[error("it is an alias of what is no host name")]
    NoName,
}

impl Chain {
    /// Begins at a name, with nothing known.
    pub fn of(name: Name, kind: RecordType) -> Self {
        Self {
            kind,
            end: name.to_lowercase(),
            aliases: Vec::new(),
            seen: Vec::new(),
            ttl: u32::MAX,
            records: Vec::new(),
        }
    }

    /// Takes in one answer section; whether it led on to another name.
    ///
    /// # Errors
    /// [`NoChain`]; what is known is of no use then.
    ///
    /// # Security
    /// Total: whatever the records, each is looked at a bounded number of times.
    pub fn extend(&mut self, answers: &[Record]) -> Result<bool, NoChain> {
        let before = self.aliases.len();
        let at = |end: &Name, record: &Record| record.dns_class == DNSClass::IN && record.name == *end;
        while self.kind != RecordType::CNAME {
            let next = answers.iter().filter(|record| at(&self.end, record)).find_map(|record| {
                let RData::CNAME(CNAME(target)) = &record.data else { return None };
                Some((target.to_lowercase(), record.ttl))
            });
            let Some((target, ttl)) = next else { break };
            let from = std::mem::replace(&mut self.end, target);
            self.seen.push(from);
            if self.seen.contains(&self.end) || self.seen.len() > MOST_ALIASES {
                return Err(NoChain::Circle);
            }
            self.aliases.push(host_name(&self.end).map_err(|_| NoChain::NoName)?);
            self.ttl = self.ttl.min(ttl);
        }
        for record in answers.iter().filter(|record| at(&self.end, record)) {
            if record.record_type() == self.kind && self.records.len() < MOST_RECORDS {
                self.ttl = self.ttl.min(record.ttl);
                self.records.extend(handed_out(record));
            }
        }
        Ok(self.aliases.len() > before)
    }

    /// The kind of records that it ends with.
    pub fn kind(&self) -> RecordType {
        self.kind
    }

    /// The name at its end, in lower case.
    pub fn end(&self) -> &Name {
        &self.end
    }

    /// The names that the first is an alias of, one after the other.
    pub fn aliases(&self) -> &[HostName] {
        &self.aliases
    }

    /// Seconds that all of it may be kept; nothing is longer than that.
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// The records at its end.
    pub fn records(&self) -> &[Record] {
        &self.records
    }
}

/// A DNS name as one host name.
///
/// # Errors
/// [`HostError`] for what is none; so is a label with a dot in it, which reads as two.
pub(crate) fn host_name(name: &Name) -> Result<HostName, HostError> {
    let mut text = String::new();
    for label in name {
        let label = std::str::from_utf8(label).map_err(|_| HostError::Character)?;
        if label.contains('.') {
            return Err(HostError::Character);
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(label);
    }
    HostName::parse(&text)
}

/// Whether records of a kind are handed out, beside addresses: those that say something about a name, or name others,
/// which are judged when they are asked for. What holds addresses or keys of connections elsewhere is not among them.
pub(crate) fn is_handed_out(kind: RecordType) -> bool {
    use RecordType::{CAA, CNAME, HTTPS, MX, NAPTR, NS, PTR, SOA, SRV, SSHFP, SVCB, TLSA, TXT};
    matches!(kind, CAA | CNAME | HTTPS | MX | NAPTR | NS | PTR | SOA | SRV | SSHFP | SVCB | TLSA | TXT)
}

/// A record as it is handed out, if it is.
fn handed_out(record: &Record) -> Option<Record> {
    let data = match &record.data {
        RData::HTTPS(HTTPS(service)) => RData::HTTPS(HTTPS(without_hints(service)?)),
        RData::SVCB(service) => RData::SVCB(without_hints(service)?),
        RData::A(_) | RData::AAAA(_) => record.data.clone(),
        data if is_handed_out(data.record_type()) => data.clone(),
        _ => return None,
    };
    Some(Record::from_rdata(record.name.clone(), record.ttl, data))
}

/// A service binding (RFC 9460) without addresses, which nobody judged, and without what would hide the name that a
/// connection asks for. Nothing, where its owner says that it means nothing without them.
fn without_hints(service: &SVCB) -> Option<SVCB> {
    let is_kept = |key: &SvcParamKey| {
        matches!(
            key,
            SvcParamKey::Mandatory | SvcParamKey::Alpn | SvcParamKey::NoDefaultAlpn | SvcParamKey::Port
        )
    };
    let mut service = service.clone();
    let needs = |params: &[(SvcParamKey, SvcParamValue)]| {
        params.iter().any(|(_, value)| match value {
            SvcParamValue::Mandatory(Mandatory(keys)) => !keys.iter().all(is_kept),
            _ => false,
        })
    };
    if needs(&service.svc_params) {
        return None;
    }
    service.svc_params.retain(|(key, _)| is_kept(key));
    Some(service)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::svcb::{Alpn, EchConfigList, IpHint};
    use hickory_proto::rr::rdata::{A, MX, TXT};
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn alias(of: &str, target: &str, ttl: u32) -> Record {
        Record::from_rdata(name(of), ttl, RData::CNAME(CNAME(name(target))))
    }

    fn address(of: &str, last: u8, ttl: u32) -> Record {
        Record::from_rdata(name(of), ttl, RData::A(A::new(9, 9, 9, last)))
    }

    fn chain(answers: &[Record]) -> Result<(Chain, bool), NoChain> {
        let mut chain = Chain::of(name("A.example."), RecordType::A);
        let led_on = chain.extend(answers)?;
        Ok((chain, led_on))
    }

    fn data(chain: &Chain) -> Vec<String> {
        chain.records().iter().map(|record| record.data.to_string()).collect()
    }

    #[test]
    fn what_belongs_to_the_name_is_taken_and_nothing_else() {
        let answers = [
            address("c.example.", 3, 30),
            address("evil.example.", 66, 1),
            alias("a.EXAMPLE.", "b.example.", 50),
            alias("b.example.", "C.example.", 40),
            alias("evil.example.", "a.example.", 1),
            address("a.example.", 1, 1),
            Record::from_rdata(name("c.example."), 1, RData::MX(MX::new(1, name("m.example.")))),
        ];
        let (chain, led_on) = chain(&answers).unwrap();
        assert!(led_on);
        assert_eq!(data(&chain), ["9.9.9.3"]);
        assert_eq!(
            chain.aliases().iter().map(HostName::as_str).collect::<Vec<_>>(),
            ["b.example", "c.example"]
        );
        assert_eq!(chain.ttl(), 30);
    }

    #[test]
    fn an_answer_that_ends_with_an_alias_is_continued() {
        let (mut chain, led_on) = chain(&[alias("a.example.", "b.example.", 5)]).unwrap();
        assert!(led_on && chain.records().is_empty());
        assert_eq!(chain.end(), &name("b.example."));
        assert_eq!(chain.extend(&[address("b.example.", 2, 9), address("a.example.", 1, 9)]), Ok(false));
        assert_eq!((data(&chain), chain.ttl()), (vec!["9.9.9.2".to_owned()], 5));
    }

    #[test]
    fn circles_and_endless_chains_are_no_answers() {
        for circle in [
            vec![alias("a.example.", "a.example.", 5)],
            vec![alias("a.example.", "b.example.", 5), alias("b.example.", "A.example.", 5)],
            (0..20)
                .map(|n| alias(&format!("{}.example.", label(n)), &format!("{}.example.", label(n + 1)), 5))
                .collect(),
        ] {
            assert_eq!(chain(&circle).map(drop), Err(NoChain::Circle));
        }
        // Over several answers too.
        let (mut one, _) = chain(&[alias("a.example.", "b.example.", 5)]).unwrap();
        assert_eq!(one.extend(&[alias("b.example.", "a.example.", 5)]), Err(NoChain::Circle));
    }

    fn label(n: u8) -> char {
        char::from(b'a' + n)
    }

    #[test]
    fn an_alias_of_what_is_no_name_is_no_answer() {
        for labels in
            [&[&b"evil\0"[..], b"example"][..], &[b"good.example"], &[b"127", b"0", b"0", b"1"], &[b"\xff"]]
        {
            let target = Name::from_labels(labels.iter().copied()).unwrap();
            let record = Record::from_rdata(name("a.example."), 5, RData::CNAME(CNAME(target)));
            assert_eq!(chain(&[record]).map(drop), Err(NoChain::NoName), "{labels:?}");
        }
    }

    #[test]
    fn another_class_says_nothing() {
        let mut other = address("a.example.", 1, 5);
        other.dns_class = DNSClass::CH;
        assert!(chain(&[other]).unwrap().0.records().is_empty());
    }

    #[test]
    fn services_are_named_without_addresses() {
        let hints = |mandatory: &[SvcParamKey]| {
            let mut params = vec![
                (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h2".into()]))),
                (SvcParamKey::Port, SvcParamValue::Port(8443)),
                (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![A::new(127, 0, 0, 1)]))),
                (SvcParamKey::EchConfigList, SvcParamValue::EchConfigList(EchConfigList(vec![1, 2]))),
            ];
            if !mandatory.is_empty() {
                params.insert(
                    0,
                    (SvcParamKey::Mandatory, SvcParamValue::Mandatory(Mandatory(mandatory.to_vec()))),
                );
            }
            let service = SVCB::new(1, name("other.example."), params);
            let record = Record::from_rdata(name("a.example."), 5, RData::HTTPS(HTTPS(service)));
            let mut chain = Chain::of(name("a.example."), RecordType::HTTPS);
            chain.extend(&[record]).unwrap();
            data(&chain)
        };
        assert_eq!(hints(&[]), ["1 other.example. alpn=h2, port=8443"]);
        assert_eq!(hints(&[SvcParamKey::Alpn]).len(), 1);
        assert_eq!(hints(&[SvcParamKey::Ipv4Hint]), [""; 0]);
    }

    #[test]
    fn records_that_hold_addresses_are_not_handed_out() {
        // WKS, A6, APL, IPSECKEY, HIP, AMTRELAY; and what is no record.
        for kind in [11, 38, 42, 45, 55, 260, 0, 41, 249, 250, 251, 252, 255, 65280] {
            assert!(!is_handed_out(RecordType::from(kind)), "{kind}");
        }
        let text = Record::from_rdata(name("a.example."), 5, RData::TXT(TXT::new(vec!["hello".into()])));
        let mut chain = Chain::of(name("a.example."), RecordType::TXT);
        chain.extend(&[text]).unwrap();
        assert_eq!(data(&chain), ["hello"]);
    }

    proptest! {
        #[test]
        fn any_records_end_somewhere(links in prop::collection::vec((0..6u8, 0..6u8, any::<bool>(), any::<u32>()), 0..30)) {
            let answers: Vec<_> = links.iter().map(|(from, to, is_alias, ttl)| {
                let of = format!("{}.example.", label(*from));
                if *is_alias { alias(&of, &format!("{}.example.", label(*to)), *ttl) } else { address(&of, *to, *ttl) }
            }).collect();
            if let Ok((chain, _)) = chain(&answers) {
                prop_assert!(chain.records().iter().all(|record| record.name == *chain.end()));
                prop_assert!(chain.records().iter().all(|record| record.ttl >= chain.ttl()));
                prop_assert!(chain.aliases().len() <= MOST_ALIASES);
            }
        }
    }
}
