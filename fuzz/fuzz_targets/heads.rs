//! A stream of requests that is found sound is so in whatever pieces it comes, and a reader that forgives much reads it
//! to the same end.
#![no_main]

use failcore_relay::Watch;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // How long the pieces are, and the stream.
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let whole = Watch::default().see(bytes);
    let mut watch = Watch::default();
    let pieces = bytes.chunks(usize::from(*piece).max(1)).find_map(|piece| watch.see(piece).err());
    assert_eq!(whole.map_err(|(_, wrong)| wrong), pieces.map_or(Ok(()), |(_, wrong)| Err(wrong)));
    let sound = whole.map_or_else(|(sound, _)| sound, |()| bytes.len());
    assert!(sound <= bytes.len());
    assert_eq!(Watch::default().see(&bytes[..sound]), Ok(()));
    read(&bytes[..sound]);
});

/// Reads requests one after the other.
fn read(mut rest: &[u8]) {
    // A head that is not all there yet is judged when it is.
    while rest.windows(4).any(|four| four == b"\r\n\r\n") {
        let mut fields = [httparse::EMPTY_HEADER; 4096];
        let mut request = httparse::Request::new(&mut fields);
        let read = match request.parse(rest) {
            Ok(httparse::Status::Complete(read)) => read,
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => return,
            Err(error) => panic!("{error} in {:?}", String::from_utf8_lossy(rest)),
        };
        let of = |name: &str| {
            request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).collect::<Vec<_>>()
        };
        let (lengths, encodings, hosts) = (of("content-length"), of("transfer-encoding"), of("host"));
        assert!(lengths.len() + encodings.len() <= 1 && hosts.len() <= 1, "{:?}", request.headers);
        let (chunked, length) = (!encodings.is_empty(), lengths.first().map(|field| field.value.to_vec()));
        rest = &rest[read..];
        if chunked {
            let Some(after) = chunks(rest) else { return };
            rest = after;
        } else if let Some(length) = length {
            let length: u64 = String::from_utf8(length).unwrap().trim().parse().unwrap();
            let Some(after) = usize::try_from(length).ok().and_then(|length| rest.get(length..)) else {
                return;
            };
            rest = after;
        }
    }
}

/// What comes after a chunked body; nothing where it has not ended.
fn chunks(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        // Nor is a line.
        rest.windows(2).position(|two| two == b"\r\n")?;
        let (line, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return None,
            Err(_) => panic!("no size of a chunk in {:?}", String::from_utf8_lossy(rest)),
        };
        rest = &rest[line..];
        if size == 0 {
            break;
        }
        let size = usize::try_from(size).ok()?;
        let after = rest.get(size..)?;
        assert!(b"\r\n".starts_with(&after[..after.len().min(2)]), "{:?}", String::from_utf8_lossy(after));
        rest = after.get(2..)?;
    }
    // Trailers, up to an empty line.
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        rest = &rest[end + 2..];
        if end == 0 {
            return Some(rest);
        }
    }
}
