//! Recorded contents on a screen: text as text, everything else as a hex dump.

use ratatui::text::Line;

use super::styled::{escaped, styled};
use crate::ui::{FAINT, count};

/// How much of a text is shown, in bytes.
const TEXT: usize = 64 << 10;
/// How much of anything else, in bytes.
const BINARY: usize = 4 << 10;
/// Bytes in a line of a dump.
const ROW: usize = 16;

/// The beginning of what was recorded, and how much more there is.
pub(super) fn shown(bytes: &[u8]) -> Vec<Line<'static>> {
    let (mut lines, shown): (Vec<Line<'static>>, usize) = match text(bytes) {
        Some(text) => (text.lines().map(|line| Line::from(escaped(line))).collect(), text.len()),
        None => {
            let part = &bytes[..bytes.len().min(BINARY)];
            (part.chunks(ROW).enumerate().map(|(row, bytes)| dumped(row * ROW, bytes)).collect(), part.len())
        }
    };
    let more = bytes.len() - shown;
    if more > 0 {
        lines.push(note(&format!("… and {} more, which are not shown", count(more as u64, "byte"))));
    }
    lines
}

/// A remark about what is shown.
pub(super) fn note(text: &str) -> Line<'static> {
    styled(FAINT, text).into()
}

/// The beginning of a text, if it is one: UTF-8 without control characters but those that lay it out.
fn text(bytes: &[u8]) -> Option<&str> {
    let part = &bytes[..bytes.len().min(TEXT)];
    let text = match str::from_utf8(part) {
        Ok(text) => text,
        // A character may be cut through.
        Err(error) if error.error_len().is_none() && part.len() < bytes.len() => {
            str::from_utf8(&part[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let lays_out = |c: char| matches!(c, '\n' | '\r' | '\t' | '\x0c' | '\x1b');
    (!text.chars().any(|c| c.is_control() && !lays_out(c))).then_some(text)
}

fn dumped(at: usize, bytes: &[u8]) -> Line<'static> {
    let hex: String = bytes.iter().map(|byte| format!(" {byte:02x}")).collect();
    let seen = |byte: &u8| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '.' };
    let text: String = bytes.iter().map(seen).collect();
    Line::from(vec![styled(FAINT, &format!("{at:08x} ")), format!("{hex:<48}  {text}").into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(bytes: &[u8]) -> Vec<String> {
        shown(bytes).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn text_is_text_and_binary_a_dump() {
        assert_eq!(plain("Zürich\n\tx\x1b[1m\n".as_bytes()), ["Zürich", "    x\\u{1b}[1m"]);
        assert_eq!(plain(b""), [""; 0]);
        assert_eq!(
            plain(b"\x7fELF\x00\xff 0123456789"),
            [
                "00000000  7f 45 4c 46 00 ff 20 30 31 32 33 34 35 36 37 38  .ELF.. 012345678",
                "00000010  39                                               9",
            ]
        );
    }

    #[test]
    fn what_is_long_is_cut_with_a_note() {
        let lines = plain(format!("x{}", "äää\n".repeat(20_000)).as_bytes());
        assert_eq!(lines[0], "xäää");
        // 64 KiB end within a character.
        assert_eq!(lines[lines.len() - 2], "äää");
        assert_eq!(
            lines.last().unwrap(),
            &format!("… and {} bytes more, which are not shown", 140_001 - 65_535)
        );
        let lines = plain(&[0xff; 5000]);
        assert_eq!(lines.len(), BINARY / ROW + 1);
        assert_eq!(lines.last().unwrap(), "… and 904 bytes more, which are not shown");
    }
}
