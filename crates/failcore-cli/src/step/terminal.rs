//! The terminal, taken while a trace is gone through, and given back however that ends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ratatui::{DefaultTerminal, Frame};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The terminal in its own screen, without line editing.
pub(super) struct Terminal {
    inner: DefaultTerminal,
    /// The signal that is to end us; 0 before there is one.
    signal: Arc<AtomicUsize>,
}

impl Terminal {
    /// Takes it. A panic gives it back before it is told.
    pub(super) fn take() -> io::Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        for number in [SIGHUP, SIGINT, SIGTERM] {
            signal_hook::flag::register_usize(number, Arc::clone(&signal), number as usize)?;
        }
        let inner = ratatui::try_init().inspect_err(|_| drop(ratatui::try_restore()))?;
        Ok(Self { inner, signal })
    }

    /// Draws a screen.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.inner.draw(draw).map(drop)
    }

    /// Its size.
    pub(super) fn size(&self) -> io::Result<ratatui::layout::Rect> {
        self.inner.size().map(|size| ratatui::layout::Rect::new(0, 0, size.width, size.height))
    }

    /// The signal that came, if one did.
    pub(super) fn signal(&self) -> Option<i32> {
        match self.signal.load(Ordering::SeqCst) {
            0 => None,
            number => i32::try_from(number).ok(),
        }
    }

    /// Gives it back and ends as the signal would have it.
    pub(super) fn end_by(self, signal: i32) -> io::Error {
        drop(self);
        match signal_hook::low_level::emulate_default_handler(signal) {
            Ok(()) => io::ErrorKind::Interrupted.into(),
            Err(error) => error,
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(ratatui::try_restore());
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Read;
    use std::process::{Command, Stdio};

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::tcgetattr;

    use super::*;

    const INSIDE: &str = "FAILCORE_TEST_INSIDE";

    #[test]
    fn a_panic_gives_it_back_before_it_is_told() {
        if std::env::var_os(INSIDE).is_some() {
            let _terminal = Terminal::take().unwrap();
            panic!("on purpose");
        }
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let user = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let before = tcgetattr(&user).unwrap();
        let stream = || Stdio::from(user.try_clone().unwrap());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "step::terminal::tests::a_panic_gives_it_back_before_it_is_told",
                "--nocapture",
            ])
            .env(INSIDE, "1")
            .stdin(stream())
            .stdout(stream())
            .stderr(stream())
            .spawn()
            .unwrap();
        let said = std::thread::spawn(move || {
            let (mut said, mut part) = (Vec::new(), [0; 4096]);
            let mut controller = std::fs::File::from(controller);
            // Ends with an error once nobody holds the other end.
            while let Ok(read) = controller.read(&mut part) {
                said.extend_from_slice(&part[..read]);
            }
            String::from_utf8_lossy(&said).into_owned()
        });
        assert!(!child.wait().unwrap().success());
        let after = tcgetattr(&user).unwrap();
        assert_eq!((after.local_modes, after.input_modes), (before.local_modes, before.input_modes));
        drop(user);
        let said = said.join().unwrap();
        let place = |what| said.find(what).unwrap_or_else(|| panic!("no {what:?} in {said:?}"));
        assert!(
            place("\x1b[?1049h") < place("\x1b[?1049l") && place("\x1b[?1049l") < place("on purpose"),
            "{said:?}"
        );
    }
}
