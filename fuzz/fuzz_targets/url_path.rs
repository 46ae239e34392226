//! A path that is taken means the same to whoever decodes, decodes twice, drops parameters or follows dots.
#![no_main]

use failcore_model::url_path;

libfuzzer_sys::fuzz_target!(|raw: &str| {
    let Ok(normal) = url_path(raw) else { return };
    assert_eq!(url_path(&normal).as_ref(), Ok(&normal), "{raw:?}");
    let once = decoded(raw.as_bytes());
    assert_eq!(decoded(normal.as_bytes()), once, "{raw:?}");
    assert_eq!(decoded(&once), once, "{raw:?}");
    assert!(!once.iter().any(|byte| *byte < 0x20 || *byte == 0x7f || *byte == b'\\'), "{raw:?}");
    for reading in [raw.as_bytes(), normal.as_bytes(), &once] {
        for drop_parameters in [false, true] {
            let segments = segments(reading, drop_parameters);
            let followed = follow(&segments);
            assert_eq!(followed, segments, "{raw:?} as {:?}", String::from_utf8_lossy(reading));
        }
    }
    // As browsers and Node.js read it.
    let url = url::Url::parse(&format!("http://host.example{raw}")).expect("it is a URL");
    assert_eq!(url.host_str(), Some("host.example"), "{raw:?}");
    assert_eq!((url.query(), url.fragment()), (None, None), "{raw:?}");
    assert_eq!(decoded(url.path().as_bytes()), once, "{raw:?} as {}", url.path());
});

/// As those do that leave alone what is no encoding.
fn decoded(path: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), path);
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// Between slashes of either kind.
fn segments(path: &[u8], drop_parameters: bool) -> Vec<&[u8]> {
    let all = path[1..].split(|byte| matches!(byte, b'/' | b'\\'));
    all.map(|one| if drop_parameters { one.split(|byte| *byte == b';').next().unwrap_or(one) } else { one })
        .collect()
}

/// Without empty segments but at the end, and along dots (RFC 3986 section 5.2.4).
fn follow<'a>(segments: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let mut found: Vec<&[u8]> = Vec::new();
    for (at, segment) in segments.iter().enumerate() {
        match *segment {
            b"." => {}
            b".." => drop(found.pop()),
            b"" if at + 1 < segments.len() => {}
            other => found.push(other),
        }
    }
    found
}
