//! The command on a terminal of its own: it asks for values, shows no secret, and uses colours.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod home;

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use home::Home;
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

const DEADLINE: Duration = Duration::from_secs(60);

struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<String>>,
    child: Child,
}

impl Terminal {
    fn start(mut command: Command) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        tcsetwinsize(&ours, Winsize { ws_row: 40, ws_col: 160, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let open =
            || -> OwnedFd { rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap() };
        command
            .env("TERM", "xterm")
            .stdin(Stdio::from(open()))
            .stdout(Stdio::from(open()))
            .stderr(Stdio::from(open()));
        let child = command.spawn().unwrap();
        drop(command);
        let mut output = File::from(ours.try_clone().unwrap());
        let screen = Arc::new(Mutex::new(String::new()));
        let shown = screen.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        });
        Self { keyboard: File::from(ours), screen, child }
    }

    fn wait_for(&self, text: &str) {
        let end = Instant::now() + DEADLINE;
        while !self.screen.lock().unwrap().contains(text) {
            assert!(Instant::now() < end, "no {text:?} on {:?}", self.screen.lock().unwrap());
            std::thread::yield_now();
        }
    }

    fn end(mut self) -> (i32, String) {
        let code = self.child.wait().unwrap().code().unwrap();
        drop(self.keyboard);
        (code, self.screen.lock().unwrap().clone())
    }
}

#[test]
fn a_secret_is_asked_for_and_not_shown() {
    let home = Home::with_settings();
    let mut terminal = Terminal::start(home.command(&["set", "Switch", "password"]));
    terminal.wait_for("password:");
    terminal.keyboard.write_all(b"hunter2\r").unwrap();
    // inquire asks twice, since nothing is shown.
    terminal.wait_for("Confirmation");
    terminal.keyboard.write_all(b"hunter2\r").unwrap();
    terminal.wait_for("is at revision");
    let (code, screen) = terminal.end();
    assert_eq!(code, 0, "{screen}");
    assert!(!screen.contains("hunter2"), "{screen}");
    assert_eq!(home.service().password.expose(), "hunter2");
}

#[test]
fn what_is_no_secret_is_asked_for_openly() {
    let home = Home::with_settings();
    let mut terminal = Terminal::start(home.command(&["set", "Switch", "host"]));
    terminal.wait_for("host:");
    terminal.keyboard.write_all(b"sw-5\r").unwrap();
    terminal.wait_for("is at revision");
    assert_eq!(terminal.end().0, 0);
    assert_eq!(home.service().host, "sw-5");
}

#[test]
fn whoever_gives_no_answer_changes_nothing() {
    let home = Home::with_settings();
    let mut terminal = Terminal::start(home.command(&["set", "Switch", "host"]));
    terminal.wait_for("host:");
    terminal.keyboard.write_all(b"\x1b").unwrap();
    terminal.wait_for("Nothing was set");
    assert_eq!(terminal.end().0, 2);
    assert_eq!(home.service().host, "sw-1.example");
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let home = Home::with_settings();
    let terminal = Terminal::start(home.command(&["verify"]));
    terminal.wait_for("\u{1b}[32mok\u{1b}[0m");
    assert_eq!(terminal.end().0, 0);
    let mut command = home.command(&["verify"]);
    command.env("NO_COLOR", "1");
    let terminal = Terminal::start(command);
    terminal.wait_for("ok everything");
    terminal.end();
}
