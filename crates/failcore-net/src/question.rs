//! DNS messages: one question read from bytes that anybody may have written, and its answer put into bytes
//! (RFC 1035, RFC 6891).

use std::net::IpAddr;
use std::panic::catch_unwind;

use failcore_model::{HostError, HostName};
use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder};

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
        /// The name it is an alias of.
        canonical: Option<&'a HostName>,
        /// Seconds that the answer may be kept.
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
            _ => About::Other,
        }
    }

    /// The name that is asked about, as it is judged and looked up.
    ///
    /// # Errors
    /// [`HostError`] for what is no host name; so is a label with a dot in it, which reads as two.
    pub fn name(&self) -> Result<HostName, HostError> {
        let mut text = String::new();
        for label in self.query.name() {
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
            Reply::Exists { addrs, canonical, ttl } => {
                self.write(ResponseCode::NoError, &self.records(addrs, canonical, ttl), most)
            }
        }
    }

    fn records(&self, addrs: &[IpAddr], canonical: Option<&HostName>, ttl: u32) -> Vec<Record> {
        let about = self.about();
        if !matches!(about, About::V4 | About::V6) {
            return Vec::new();
        }
        let mut owner = self.query.name().clone();
        let mut records = Vec::new();
        let alias = canonical.and_then(|name| Name::from_ascii(format!("{name}.")).ok());
        if let Some(alias) = alias.filter(|alias| *alias != owner) {
            let data = RData::CNAME(CNAME(alias.clone()));
            records.push(Record::from_rdata(std::mem::replace(&mut owner, alias), ttl, data));
        }
        records.extend(addrs.iter().filter_map(|addr| {
            let data = match (about, addr) {
                (About::V4, IpAddr::V4(v4)) => RData::A(A(*v4)),
                (About::V6, IpAddr::V6(v6)) => RData::AAAA(AAAA(*v6)),
                _ => return None,
            };
            Some(Record::from_rdata(owner.clone(), ttl, data))
        }));
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
