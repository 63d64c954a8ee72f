//! The first-run story, as a new user would try it, with the examples in a real pseudo-terminal.

#![cfg(all(feature = "prompt", feature = "sqlite"))]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

const DEADLINE: Duration = Duration::from_secs(60);

/// An example, which `cargo test` builds beside the tests.
fn example(name: &str) -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let path = deps.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is not there: build it with `cargo build --examples`", path.display());
    path
}

fn command(name: &str, home: &Path) -> Command {
    let mut command = Command::new(example(name));
    command.env_clear().env("HOME", home).env("TERM", "xterm").env("USER", "tester").current_dir(home);
    command
}

/// A program in a terminal of its own.
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
        let size = Winsize { ws_row: 40, ws_col: 160, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&ours, size).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let open =
            || -> OwnedFd { rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap() };
        let child = command
            .stdin(Stdio::from(open()))
            .stdout(Stdio::from(open()))
            .stderr(Stdio::from(open()))
            .spawn()
            .unwrap();
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

    fn shown(&self) -> String {
        self.screen.lock().unwrap().clone()
    }

    fn wait_for(&self, text: &str) {
        let end = Instant::now() + DEADLINE;
        while !self.shown().contains(text) {
            assert!(Instant::now() < end, "{text:?} does not appear: {}", self.shown());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn type_in(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    fn end(mut self) -> (ExitStatus, String) {
        let end = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "it does not end: {}", self.shown());
            std::thread::sleep(Duration::from_millis(5));
        };
        // What it wrote last is in the terminal's buffer.
        let mut last = self.shown();
        loop {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.shown();
            if now == last {
                return (status, now);
            }
            last = now;
        }
    }
}

fn run(command: &mut Command) -> (Output, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output, text)
}

/// All bytes of all files.
fn all_bytes(folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => bytes.extend(all_bytes(&entry.path())),
            false => bytes.extend(std::fs::read(entry.path()).unwrap()),
        }
    }
    bytes
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn answer_everything(home: &Path, host: &str) -> String {
    let mut terminal = Terminal::start(command("prompting", home));
    terminal.wait_for("needs 3 values that are set nowhere");
    terminal.wait_for("SwitchLogin.host");
    terminal.wait_for("Name or address of the switch.");
    terminal.type_in(&format!("{host}\r"));
    terminal.wait_for("SwitchLogin.password");
    terminal.type_in("canary-pass");
    terminal.wait_for("***********");
    terminal.type_in("\r");
    terminal.wait_for("SwitchLogin.port");
    terminal.type_in("many\r");
    terminal.wait_for("expected a whole number from 0 to 65535");
    // Backspace over what was refused.
    terminal.type_in("\x7f\x7f\x7f\x7f22\r");
    terminal.wait_for("Kept in sqlite");
    let (status, shown) = terminal.end();
    assert!(status.success(), "{shown}");
    assert!(!shown.contains("canary"), "what is typed into a secret is masked: {shown}");
    shown
}

#[test]
fn the_first_run_asks_the_second_is_silent_and_a_deleted_folder_asks_again() {
    let home = tempfile::tempdir().unwrap();
    let shown = answer_everything(home.path(), "switch-1");
    assert!(shown.contains(r#"host: "switch-1", password: [secret], port: 22, verify: true"#), "{shown}");
    let data = home.path().join(".local/share/harmony/config");
    assert!(data.join("config.db").exists());
    let bytes = all_bytes(home.path());
    assert!(has(&bytes, "switch-1") && !has(&bytes, "canary-pass"), "secrets are sealed at rest");

    // Silent, with a terminal and without one.
    let (status, shown) = Terminal::start(command("prompting", home.path())).end();
    assert!(status.success() && shown.contains("switch-1") && !shown.contains("needs"), "{shown}");
    let (output, shown) = run(&mut command("prompting", home.path()));
    assert!(output.status.success() && shown.contains("switch-1"), "{shown}");

    // The environment wins, and is not kept.
    let (_, shown) =
        run(command("prompting", home.path()).env("HARMONY_CONFIG_SwitchLogin__HOST", "switch-2"));
    assert!(shown.contains("switch-2"), "{shown}");
    let (_, shown) = run(&mut command("prompting", home.path()));
    assert!(shown.contains("switch-1"), "{shown}");

    std::fs::remove_dir_all(&data).unwrap();
    let shown = answer_everything(home.path(), "switch-3");
    assert!(shown.contains("switch-3"), "{shown}");
}

#[test]
fn the_environment_skips_its_questions_and_only_answers_are_kept() {
    let home = tempfile::tempdir().unwrap();
    let mut command = command("prompting", home.path());
    command
        .env("HARMONY_CONFIG_SwitchLogin", r#"{ "host": "from-the-environment", "password": "canary-env" }"#);
    let mut terminal = Terminal::start(command);
    terminal.wait_for("needs one value that is set nowhere");
    terminal.wait_for("SwitchLogin.port");
    terminal.type_in("443\r");
    let (status, shown) = terminal.end();
    assert!(status.success() && shown.contains("from-the-environment"), "{shown}");
    let bytes = all_bytes(home.path());
    assert!(!has(&bytes, "from-the-environment") && !has(&bytes, "canary-env"));
}

#[test]
fn without_a_terminal_nobody_is_asked_and_everything_missing_is_named() {
    let home = tempfile::tempdir().unwrap();
    let (output, shown) = run(&mut command("prompting", home.path()));
    assert!(!output.status.success());
    for expected in [
        "there is no terminal",
        "SwitchLogin.host: Name or address of the switch.",
        "SwitchLogin.password",
        "SwitchLogin.port",
        "the variable HARMONY_CONFIG_SwitchLogin__PASSWORD",
        "SwitchLogin.toml",
        "harmony-config set SwitchLogin",
    ] {
        assert!(shown.contains(expected), "{expected:?} is not in {shown}");
    }
}

#[test]
fn who_breaks_it_off_has_changed_nothing() {
    let home = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::start(command("prompting", home.path()));
    terminal.wait_for("SwitchLogin.host");
    terminal.type_in("half-an-answer\r");
    terminal.wait_for("SwitchLogin.password");
    terminal.type_in("\x03");
    let (status, shown) = terminal.end();
    assert!(!status.success() && shown.contains("nothing was kept"), "{shown}");
    assert!(!has(&all_bytes(home.path()), "half-an-answer"));
}

#[test]
fn the_basic_example_tells_what_is_missing_gives_a_template_and_greets() {
    let home = tempfile::tempdir().unwrap();
    let (output, shown) = run(&mut command("basic", home.path()));
    assert!(!output.status.success() && shown.contains("Greeting.name: Who is greeted."), "{shown}");

    let (output, template) = run(command("basic", home.path()).arg("template"));
    assert!(output.status.success() && template.contains("#times = 1"), "{template}");
    let filled = template.replace("#name = \"\"", "name = \"Ada\"").replace("#times = 1", "times = 2");
    std::fs::write(home.path().join("Greeting.toml"), filled).unwrap();
    let (output, shown) = run(&mut command("basic", home.path()));
    assert!(output.status.success() && shown.starts_with("Hello, Ada!\nHello, Ada!\n"), "{shown}");
    assert!(shown.contains("times = 2  (file ./Greeting.toml)"), "{shown}");

    let (_, shown) = run(command("basic", home.path()).env("HARMONY_CONFIG_Greeting__NAME", "Grace"));
    assert!(shown.starts_with("Hello, Grace!"), "{shown}");
    let (output, shown) = run(command("basic", home.path()).env("HARMONY_CONFIG_Greeting__TIMES", "11"));
    assert!(!output.status.success() && shown.contains("times: expected") && shown.contains("10"), "{shown}");
}
