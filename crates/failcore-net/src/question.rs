//! DNS messages: one question read from bytes that anybody may have written, and its answer put into bytes
//! (RFC 1035, RFC 6891).

use std::net::IpAddr;
use std::panic::catch_unwind;

use failcore_model::{HostError, HostName};
use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder};

use crate::answers::{host_name, is_handed_out};

/// Answers over UDP are no longer, whatever the asker takes: what no path has to cut (RFC 9715).
const PAYLOAD: u16 = 1232;
/// What every asker takes in a datagram (RFC 1035 section 4.2.1).
const PLAIN: u16 = 512;
/// Records beside the question: EDNS and a signature are two.
const MOST_RECORDS: u16 = 4;

/// One question for the addresses of a name, or for something else about it.
#[derive(Debug, Clone)]
pub struct Question {
    metadata: Metadata,
    query: Query,
    /// What the asker takes in a datagram, where it says so.
    payload: Option<u16>,
}

/// Why bytes are no question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoQuestion {
    /// Nothing that could be answered: too short for a header, or an answer itself.
    Silence,
    /// This error is the answer.
    Answer(Vec<u8>),
}

/// What is asked about the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// Its IPv4 addresses.
    V4,
    /// Its IPv6 addresses.
    V6,
    /// Other records, which are handed out where they can be looked up.
    Records(RecordType),
    /// Another kind of record, which we have none of.
    Other,
    /// What is no question for a record: a zone's transfer, another class than the internet's.
    Unknown,
}

/// What a question comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The name exists.
    Exists {
        /// Its addresses, of both families; those that were not asked for are left out.
        addrs: &'a [IpAddr],
        /// The names it is an alias of, one after the other.
        aliases: &'a [HostName],
        /// Seconds that the answer may be kept.
        ttl: u32,
    },
    /// The name has other records.
    Has {
        /// The records, of the kind that was asked for.
        records: &'a [Record],
        /// As above.
        aliases: &'a [HostName],
        /// As above.
        ttl: u32,
    },
    /// There is no such name, or none for this asker: nobody asks again, as they would after `REFUSED`.
    NoName,
    /// It could not be found out.
    Failed,
}

impl Question {
    /// Reads a message.
    ///
    /// # Errors
    /// [`NoQuestion`] for all that is not one question.
    ///
    /// # Security
    /// Total: no bytes make it panic, loop or allocate more than a few times their length.
    pub fn read(bytes: &[u8]) -> Result<Self, NoQuestion> {
        let header = Header::read(&mut BinDecoder::new(bytes)).map_err(|_| NoQuestion::Silence)?;
        if header.message_type == MessageType::Response {
            return Err(NoQuestion::Silence);
        }
        let wrong = |code| Err(NoQuestion::Answer(error(&header.metadata, code)));
        if header.op_code != OpCode::Query {
            return wrong(ResponseCode::NotImp);
        }
        let counts = header.counts;
        if counts.queries != 1
            || counts.answers != 0
            || counts.authorities != 0
            || counts.additionals > MOST_RECORDS
        {
            return wrong(ResponseCode::FormErr);
        }
        // The decoder knows cases that "cannot be".
        let Ok(Ok(mut message)) = catch_unwind(|| Message::from_vec(bytes)) else {
            return wrong(ResponseCode::FormErr);
        };
        let Some(query) = message.queries.pop() else { return wrong(ResponseCode::FormErr) };
        let payload = message.edns.as_ref().map(Edns::max_payload);
        let question = Self { metadata: response_to(&header.metadata), query, payload };
        match message.edns {
            Some(edns) if edns.version() != 0 => {
                Err(NoQuestion::Answer(question.write(ResponseCode::BADVERS, &[], usize::MAX)))
            }
            _ => Ok(question),
        }
    }

    /// The number that the asker gave it.
    pub fn id(&self) -> u16 {
        self.metadata.id
    }

    /// What is asked.
    pub fn about(&self) -> About {
        if self.query.query_class() != DNSClass::IN {
            return About::Unknown;
        }
        match self.query.query_type() {
            RecordType::A => About::V4,
            RecordType::AAAA => About::V6,
            // RFC 1035 section 3.2.3, RFC 2930, RFC 6891, RFC 8945: no records of a name.
            kind if matches!(u16::from(kind), 0 | 41 | 249..=254) => About::Unknown,
            kind if is_handed_out(kind) => About::Records(kind),
            _ => About::Other,
        }
    }

    /// The name that is asked about, as it is judged and looked up.
    ///
    /// # Errors
    /// [`HostError`] for what is no host name; so is a label with a dot in it, which reads as two.
    pub fn name(&self) -> Result<HostName, HostError> {
        host_name(self.query.name())
    }

    /// The question in words, for a record; whatever its bytes, it is text.
    pub fn text(&self) -> String {
        format!("{} {} {}", self.query.query_class(), self.query.query_type(), self.query.name().to_ascii())
    }

    /// The answer for a datagram: where it does not fit, what does, marked so that the asker comes again by TCP.
    pub fn datagram(&self, reply: Reply<'_>) -> Vec<u8> {
        let most = self.payload.map_or(PLAIN, |asked| asked.clamp(PLAIN, PAYLOAD));
        self.answer(reply, most.into())
    }

    /// The answer for a stream, with its length before it (RFC 7766).
    pub fn stream(&self, reply: Reply<'_>) -> Vec<u8> {
        framed(&self.answer(reply, u16::MAX.into()))
    }

    fn answer(&self, reply: Reply<'_>, most: usize) -> Vec<u8> {
        match reply {
            Reply::NoName => self.write(ResponseCode::NXDomain, &[], most),
            Reply::Failed => self.write(ResponseCode::ServFail, &[], most),
            Reply::Exists { addrs, aliases, ttl } => {
                let about = self.about();
                let data = addrs.iter().filter_map(|addr| match (about, addr) {
                    (About::V4, IpAddr::V4(v4)) => Some(RData::A(A(*v4))),
                    (About::V6, IpAddr::V6(v6)) => Some(RData::AAAA(AAAA(*v6))),
                    _ => None,
                });
                let aliases = if matches!(about, About::V4 | About::V6) { aliases } else { &[] };
                self.write(ResponseCode::NoError, &self.chain(aliases, data, ttl), most)
            }
            Reply::Has { records, aliases, ttl } => {
                let data = records
                    .iter()
                    .filter(|record| record.record_type() == self.query.query_type())
                    .map(|record| record.data.clone());
                self.write(ResponseCode::NoError, &self.chain(aliases, data, ttl), most)
            }
        }
    }

    /// Aliases from the name on, and data at their end.
    fn chain(&self, aliases: &[HostName], data: impl Iterator<Item = RData>, ttl: u32) -> Vec<Record> {
        let mut owner = self.query.name().clone();
        let mut records = Vec::new();
        for alias in aliases.iter().filter_map(|name| Name::from_ascii(format!("{name}.")).ok()) {
            if alias != owner {
                let data = RData::CNAME(CNAME(alias.clone()));
                records.push(Record::from_rdata(std::mem::replace(&mut owner, alias), ttl, data));
            }
        }
        records.extend(data.map(|data| Record::from_rdata(owner.clone(), ttl, data)));
        records
    }

    /// As many of the records as fit.
    fn write(&self, code: ResponseCode, records: &[Record], most: usize) -> Vec<u8> {
        let mut fitting = records.len();
        loop {
            let mut message = Message::response(self.metadata.id, OpCode::Query);
            message.metadata = self.metadata;
            message.metadata.response_code = code;
            message.metadata.truncation = fitting < records.len();
            message.add_query(self.query.clone());
            message.add_answers(records[..fitting].iter().cloned());
            if self.payload.is_some() {
                let mut edns = Edns::new();
                edns.set_max_payload(PAYLOAD);
                message.set_edns(edns);
            }
            match message.to_vec() {
                Ok(bytes) if bytes.len() <= most || fitting == 0 => return bytes,
                Ok(bytes) => {
                    // No record is shorter than a pointer, ten bytes of head and four of address.
                    let over = (bytes.len() - most).div_ceil(64);
                    fitting = fitting.saturating_sub(over.max(1));
                }
                Err(_) if fitting > 0 => fitting /= 2,
                Err(_) => return error(&self.metadata, ResponseCode::ServFail),
            }
        }
    }
}

/// A message with its length before it.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    // Longer than its length can say is nothing we write.
    let length = u16::try_from(message.len()).unwrap_or(0);
    [&length.to_be_bytes(), &message[..length.into()]].concat()
}

fn response_to(asked: &Metadata) -> Metadata {
    let mut metadata = Metadata::response_from_request(asked);
    // Some askers take a server that does not offer it for a broken one.
    metadata.recursion_available = true;
    metadata
}

/// An answer without its question, which could not be read.
fn error(asked: &Metadata, code: ResponseCode) -> Vec<u8> {
    let mut metadata = response_to(asked);
    metadata.response_code = code;
    let header = Header { metadata, counts: Default::default() };
    let mut bytes = Vec::with_capacity(12);
    match header.emit(&mut BinEncoder::new(&mut bytes)) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(name: &[&[u8]], kind: u16) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(*label);
        }
        bytes.push(0);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes
    }

    fn example(kind: u16) -> Vec<u8> {
        query(&[b"Www", b"example"], kind)
    }

    /// With EDNS of this version, for answers of this length.
    fn with_edns(mut bytes: Vec<u8>, version: u8, payload: u16) -> Vec<u8> {
        bytes[11] += 1;
        bytes.extend([0, 0, 41]);
        bytes.extend(payload.to_be_bytes());
        bytes.extend([0, version, 0x80, 0, 0, 0]);
        bytes
    }

    fn read(bytes: &[u8]) -> Question {
        Question::read(bytes).unwrap()
    }

    fn code(bytes: &[u8]) -> String {
        match Question::read(bytes) {
            Ok(question) => format!("{:?}", question.about()),
            Err(NoQuestion::Silence) => "silence".into(),
            Err(NoQuestion::Answer(answer)) => {
                let answer = Message::from_vec(&answer).unwrap();
                assert_eq!(answer.id.to_be_bytes(), bytes[..2]);
                assert_eq!(answer.message_type, MessageType::Response);
                format!("{:?}", answer.response_code)
            }
        }
    }

    fn addrs(n: u8) -> Vec<IpAddr> {
        (0..n)
            .flat_map(|n| {
                [IpAddr::from([9, 9, 9, n]), IpAddr::from([0x2606, 0, 0, 0, 0, 0, 0, u16::from(n)])]
            })
            .collect()
    }

    fn exists(addrs: &[IpAddr]) -> Reply<'_> {
        Reply::Exists { addrs, aliases: &[], ttl: 60 }
    }

    #[test]
    fn a_question_is_read() {
        let question = read(&example(1));
        assert_eq!((question.id(), question.about()), (0x1234, About::V4));
        assert_eq!(question.name().unwrap().as_str(), "www.example");
        assert_eq!(question.text(), "IN A Www.example.");
        assert_eq!(read(&example(28)).about(), About::V6);
        for kind in [2, 5, 6, 12, 15, 16, 33, 35, 44, 52, 64, 65, 257] {
            assert_eq!(read(&example(kind)).about(), About::Records(RecordType::from(kind)), "{kind}");
        }
        for kind in [11, 38, 42, 45, 48, 255, 260, 0xff00] {
            assert_eq!(read(&example(kind)).about(), About::Other, "{kind}");
        }
        for kind in [0, 41, 249, 250, 251, 252, 253, 254] {
            assert_eq!(read(&example(kind)).about(), About::Unknown, "{kind}");
        }
        for class in [0, 3, 4, 254, 255] {
            let mut chaos = example(1);
            *chaos.last_mut().unwrap() = class;
            assert_eq!(read(&chaos).about(), About::Unknown, "{class}");
        }
    }

    #[test]
    fn what_is_no_question_is_an_error_or_silence() {
        assert_eq!(code(b""), "silence");
        assert_eq!(code(&example(1)[..11]), "silence");
        let with = |at: usize, value: u8| {
            let mut bytes = example(1);
            bytes[at] = value;
            code(&bytes)
        };
        assert_eq!(with(2, 0x81), "silence", "an answer");
        for opcode in [1, 2, 4, 5, 6, 15] {
            assert_eq!(with(2, opcode << 3), "NotImp", "{opcode}");
        }
        assert_eq!(with(5, 0), "FormErr", "no question");
        assert_eq!(with(5, 2), "FormErr", "two questions");
        assert_eq!(with(4, 0xff), "FormErr", "many questions");
        assert_eq!(with(7, 1), "FormErr", "an answer that is not there");
        assert_eq!(with(9, 1), "FormErr");
        assert_eq!(with(11, 1), "FormErr", "a record that is not there");
        assert_eq!(with(10, 0xff), "FormErr");
        for cut in 12..example(1).len() {
            assert_eq!(code(&example(1)[..cut]), "FormErr", "{cut}");
        }
    }

    #[test]
    fn names_that_lead_nowhere_are_no_questions() {
        // A pointer to itself, one forward, two that point at each other, a label with reserved bits.
        for name in [&[0xc0, 12][..], &[0xc0, 40], &[0xc0, 14, 0xc0, 12], &[0x41, b'a', 0], &[0x80, 0]] {
            let mut bytes = example(1)[..12].to_vec();
            bytes.extend(name);
            bytes.extend([0, 1, 0, 1]);
            assert_eq!(code(&bytes), "FormErr", "{name:02x?}");
        }
        // 255 bytes and more.
        let long = [b'a'; 63];
        assert_eq!(code(&query(&[&long[..], &long[..], &long[..], &long[..]], 1)), "FormErr");
        assert_eq!(code(&query(&[&[b'a'; 64]], 1)), "FormErr");
    }

    #[test]
    fn what_reads_as_another_name_is_no_name() {
        let name = |labels: &[&[u8]]| read(&query(labels, 1)).name();
        assert_eq!(name(&[b"evil", b"example\0", b"good"]), Err(HostError::Nul));
        assert_eq!(name(&[b"good.example"]), Err(HostError::Character), "one label, not two");
        assert_eq!(name(&[b"\xff\xfe", b"example"]), Err(HostError::Character));
        assert_eq!(name(&[b"127", b"0", b"0", b"1"]), Err(HostError::BadAddress));
        assert_eq!(name(&[b"0x7f", b"1"]), Err(HostError::BadAddress));
        assert_eq!(name(&[]), Err(HostError::Empty));
        assert_eq!(name(&[b"good", b"ex ample"]), Err(HostError::Character));
        assert_eq!(name(&["ａｐｉ".as_bytes(), b"example"]).unwrap().as_str(), "api.example");
        assert_eq!(name(&["bücher".as_bytes(), b"example"]).unwrap().as_str(), "xn--bcher-kva.example");
        // Whatever the bytes, it can be recorded.
        assert_eq!(read(&query(&[b"a\0\xff.\n"], 1)).text(), "IN A a\\000\\377\\.\\012.");
    }

    #[test]
    fn an_answer_has_what_was_asked_for() {
        let found = addrs(2);
        let question = read(&example(1));
        let answer = Message::from_vec(&question.datagram(exists(&found))).unwrap();
        assert_eq!(answer.id, 0x1234);
        assert!(answer.recursion_available && answer.recursion_desired && !answer.authoritative);
        assert_eq!(answer.queries[0].name().to_ascii(), "Www.example.", "as it was spelt");
        let data: Vec<_> = answer.answers.iter().map(|one| (one.data.to_string(), one.ttl)).collect();
        assert_eq!(data, [("9.9.9.0".into(), 60), ("9.9.9.1".into(), 60)]);
        assert_eq!(answer.edns, None);
        let answer = Message::from_vec(&read(&example(28)).datagram(exists(&found))).unwrap();
        assert_eq!(answer.answers.len(), 2);
        for kind in [12, 16, 65, 255] {
            let answer = Message::from_vec(&read(&example(kind)).datagram(exists(&found))).unwrap();
            assert_eq!((answer.response_code, answer.answers.len()), (ResponseCode::NoError, 0));
        }
        let answer = Message::from_vec(&question.datagram(Reply::NoName)).unwrap();
        assert_eq!(answer.response_code, ResponseCode::NXDomain);
        let answer = Message::from_vec(&question.datagram(Reply::Failed)).unwrap();
        assert_eq!(answer.response_code, ResponseCode::ServFail);
    }

    #[test]
    fn an_alias_is_told() {
        let aliases = ["cdn.example", "real.example"].map(|name| HostName::parse(name).unwrap());
        let found = addrs(1);
        let reply = Reply::Exists { addrs: &found, aliases: &aliases, ttl: 5 };
        let answer = Message::from_vec(&read(&example(1)).datagram(reply)).unwrap();
        let text: Vec<_> = answer.answers.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "Www.example. 5 IN CNAME cdn.example.",
                "cdn.example. 5 IN CNAME real.example.",
                "real.example. 5 IN A 9.9.9.0"
            ]
        );
        // A name is no alias of itself, however it is spelt.
        let same = HostName::parse("www.example").unwrap();
        let reply = Reply::Exists { addrs: &found, aliases: &[same], ttl: 5 };
        assert_eq!(Message::from_vec(&read(&example(1)).datagram(reply)).unwrap().answers.len(), 1);
    }

    #[test]
    fn what_is_too_long_for_a_datagram_comes_by_stream() {
        let found = addrs(200);
        for (asked, most) in [(None, 512), (Some(0), 512), (Some(700), 700), (Some(65535), 1232)] {
            let bytes = asked.map_or(example(1), |payload| with_edns(example(1), 0, payload));
            let question = read(&bytes);
            let datagram = question.datagram(exists(&found));
            assert!(datagram.len() <= most && datagram.len() > most - 32, "{} of {most}", datagram.len());
            let answer = Message::from_vec(&datagram).unwrap();
            assert!(answer.truncation && !answer.answers.is_empty());
            assert_eq!(answer.edns.is_some(), asked.is_some());
            let stream = question.stream(exists(&found));
            assert_eq!(usize::from(u16::from_be_bytes([stream[0], stream[1]])), stream.len() - 2);
            let answer = Message::from_vec(&stream[2..]).unwrap();
            assert_eq!((answer.truncation, answer.answers.len()), (false, 200));
        }
    }

    #[test]
    fn an_unknown_version_of_edns_is_said_to_be_one() {
        // BADVERS has the number of BADSIG, and is meant where nothing is signed.
        assert_eq!(code(&with_edns(example(1), 1, 1232)), "BADSIG");
        assert_eq!(code(&with_edns(with_edns(example(1), 0, 1232), 0, 1232)), "FormErr", "two of them");
    }

    fn anything() -> impl Strategy<Value = Vec<u8>> {
        let label = prop::collection::vec(any::<u8>(), 1..64);
        let written = (prop::collection::vec(label, 0..6), any::<u16>(), any::<bool>()).prop_map(
            |(labels, kind, edns)| {
                let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
                let bytes = query(&labels, kind);
                if edns { with_edns(bytes, 0, 4096) } else { bytes }
            },
        );
        let changed = (
            written.clone(),
            prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            any::<prop::sample::Index>(),
        )
            .prop_map(|(mut bytes, changes, cut)| {
                for (at, value) in changes {
                    let at = at.index(bytes.len());
                    bytes[at] = value;
                }
                bytes.truncate(cut.index(bytes.len()) + 1);
                bytes
            });
        prop_oneof![prop::collection::vec(any::<u8>(), 0..600), written, changed]
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer_no_longer_than_they_deserve(bytes in anything(), many in 0..40u8) {
            match Question::read(&bytes) {
                Err(NoQuestion::Silence) => {}
                Err(NoQuestion::Answer(answer)) => {
                    prop_assert!(answer.len() <= bytes.len());
                    prop_assert!(Message::from_vec(&answer).is_ok());
                }
                Ok(question) => {
                    let _ = (question.about(), question.name(), question.text());
                    for reply in [Reply::NoName, Reply::Failed, exists(&addrs(many))] {
                        let datagram = question.datagram(reply);
                        prop_assert!(datagram.len() <= usize::from(PAYLOAD));
                        let answer = Message::from_vec(&datagram).unwrap();
                        prop_assert_eq!(answer.id, question.id());
                        prop_assert_eq!(answer.message_type, MessageType::Response);
                    }
                }
            }
        }

        /// What is judged is what the bytes say: label by label, and nothing else.
        #[test]
        fn the_name_is_that_of_the_message(labels in prop::collection::vec("[a-z_-]{1,10}", 1..6)) {
            let bytes: Vec<&[u8]> = labels.iter().map(String::as_bytes).collect();
            match read(&query(&bytes, 1)).name() {
                Ok(name) => prop_assert_eq!(name.as_str(), labels.join(".")),
                Err(error) => prop_assert_eq!(Err(error), HostName::parse(&labels.join("."))),
            }
        }
    }
}
