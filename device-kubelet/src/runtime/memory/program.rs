//! What a simulated container does, read from its command line. Pure.
//!
//! | command | behaviour |
//! |---|---|
//! | `sleep N` | ends with 0 after N seconds |
//! | `true`, `false` | ends at once with 0, 1 |
//! | `sh -c '…'` | statements separated by `;` or lines: `echo TEXT [>&2]`, `sleep N`, `exit N`, `true`, `false`, `:`, `trap '' TERM`, `trap 'exit N' TERM`, `sleep N &`, `wait` |
//! | a name with `does-not-exist` | cannot be started |
//! | anything else | runs for ever, ends with 143 when asked to stop |
//!
//! The kernel delivers no signal to a container's first process that it has no handler for. So what is known
//! here ignores SIGTERM until the grace is over, as the same commands do in a real container; a `trap` with
//! an exit takes effect when the sleep in the foreground ends, or at once in a `wait`.

use std::time::Duration;

/// What SIGTERM does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnTerm {
    /// Nothing.
    Ignore,
    /// Ends with this code, at the next opportunity.
    Exit(i32),
    /// Ends at once, killed by the signal.
    Die,
}

/// One thing after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Echo {
        stderr: bool,
        text: String,
    },
    Sleep(Duration),
    /// For ever, until a signal.
    Wait,
    Exit(i32),
}

/// A program. Its last step is [`Step::Wait`] or [`Step::Exit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) steps: Vec<Step>,
    pub(super) on_term: OnTerm,
}

impl Program {
    /// The message is what an OCI runtime says.
    pub(super) fn parse(argv: &[String]) -> Result<Self, String> {
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let name = argv.first().map_or("", |path| path.rsplit('/').next().unwrap_or(path));
        match (name, &argv[..]) {
            (name, [path, ..]) if name.contains("does-not-exist") => Err(not_found(path)),
            ("sh", [_, "-c", script]) => Ok(shell(script)),
            (_, rest) => Ok(statement(&rest.join(" ")).map_or_else(Self::forever, Self::ending)),
        }
    }

    /// Runs until it is stopped.
    pub(super) fn forever() -> Self {
        Self { steps: vec![Step::Wait], on_term: OnTerm::Die }
    }

    fn ending(mut steps: Vec<Step>) -> Self {
        if !matches!(steps.last(), Some(Step::Exit(_) | Step::Wait)) {
            steps.push(Step::Exit(0));
        }
        Self { steps, on_term: OnTerm::Ignore }
    }
}

fn not_found(path: &str) -> String {
    let reason = if path.starts_with('/') {
        format!("stat {path}: no such file or directory")
    } else {
        "executable file not found in $PATH".to_owned()
    };
    format!("runc: runc create failed: unable to start container process: exec: {path:?}: {reason}")
}

fn shell(script: &str) -> Program {
    let mut steps = Vec::new();
    let mut on_term = OnTerm::Ignore;
    let mut last = 0;
    for text in statements(script) {
        if let Some(trap) = text.strip_prefix("trap ").and_then(|t| t.strip_suffix(" TERM")) {
            match trap.trim_matches(['"', '\'', ' ']) {
                "" => on_term = OnTerm::Ignore,
                action => match action.strip_prefix("exit").map(|code| code.trim().parse()) {
                    Some(Ok(code)) => on_term = OnTerm::Exit(code),
                    _ => return Program::forever(),
                },
            }
            continue;
        }
        let Some(more) = statement(&text) else {
            return Program::forever();
        };
        match more.last() {
            // A failing command ends a script only if it is the last.
            Some(Step::Exit(code)) if !text.starts_with("exit") => last = *code,
            Some(Step::Exit(_)) => {
                steps.extend(more);
                return Program { steps, on_term };
            }
            Some(_) => {
                last = 0;
                steps.extend(more);
            }
            None => last = 0,
        }
    }
    if steps.last() != Some(&Step::Wait) {
        steps.push(Step::Exit(last));
    }
    Program { steps, on_term }
}

/// `None` if it is not known; empty if it takes no time and says nothing.
fn statement(text: &str) -> Option<Vec<Step>> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let name = words.first()?.rsplit('/').next()?;
    Some(match (name, &words[1..]) {
        (":", _) | ("sleep", [_, "&"]) => Vec::new(),
        ("true", _) => vec![Step::Exit(0)],
        ("false", _) => vec![Step::Exit(1)],
        ("wait", _) => vec![Step::Wait],
        ("exit", []) => vec![Step::Exit(0)],
        ("exit", [code]) => vec![Step::Exit(code.parse::<i32>().ok()? & 0xff)],
        ("sleep", ["infinity"]) => vec![Step::Wait],
        ("sleep", [seconds]) => {
            let seconds: f64 = seconds.trim_end_matches('s').parse().ok()?;
            vec![Step::Sleep(Duration::try_from_secs_f64(seconds).ok()?)]
        }
        ("echo", said) => {
            let (said, stderr) = match said {
                [said @ .., ">&2"] => (said, true),
                said => (said, false),
            };
            vec![Step::Echo { stderr, text: said.join(" ").trim_matches(['"', '\'']).to_owned() }]
        }
        _ => return None,
    })
}

/// Splits at `;`, line ends and after `&`, outside of quotes.
fn statements(script: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut quote = None;
    let mut before = ' ';
    for c in script.chars() {
        match quote {
            Some(q) if q == c => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            _ => {}
        }
        let ends = quote.is_none() && (c == ';' || c == '\n' || (c == '&' && before != '>'));
        if let Some(current) = all.last_mut()
            && !(ends && c != '&')
        {
            current.push(c);
        }
        if ends {
            all.push(String::new());
        }
        before = c;
    }
    all.iter().map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn parse(argv: &[&str]) -> Program {
        let argv: Vec<String> = argv.iter().map(|s| (*s).to_owned()).collect();
        Program::parse(&argv).unwrap()
    }

    fn sleep(seconds: u64) -> Step {
        Step::Sleep(Duration::from_secs(seconds))
    }

    #[test]
    fn simple_commands_end_by_themselves() {
        assert_eq!(parse(&["sleep", "5"]).steps, [sleep(5), Step::Exit(0)]);
        assert_eq!(parse(&["/bin/sleep", "5"]).steps, [sleep(5), Step::Exit(0)]);
        assert_eq!(parse(&["true"]).steps, [Step::Exit(0)]);
        assert_eq!(parse(&["false"]).steps, [Step::Exit(1)]);
        assert_eq!(parse(&["sleep", "5"]).on_term, OnTerm::Ignore);
    }

    #[test]
    fn scripts_are_steps() {
        let program = parse(&["sh", "-c", "echo 'a b'; sleep 2\n echo c >&2 ; exit 3; echo never"]);
        assert_eq!(
            program.steps,
            [
                Step::Echo { stderr: false, text: "a b".into() },
                sleep(2),
                Step::Echo { stderr: true, text: "c".into() },
                Step::Exit(3)
            ]
        );
        assert_eq!(parse(&["sh", "-c", "false; true"]).steps, [Step::Exit(0)]);
        assert_eq!(parse(&["sh", "-c", "true; false"]).steps, [Step::Exit(1)]);
    }

    #[test]
    fn traps_decide_about_term() {
        let program = parse(&["sh", "-c", r#"trap "" TERM; sleep 9"#]);
        assert_eq!((program.on_term, program.steps), (OnTerm::Ignore, vec![sleep(9), Step::Exit(0)]));
        let program = parse(&["sh", "-c", r#"trap "exit 7" TERM; sleep 1000 & wait"#]);
        assert_eq!((program.on_term, program.steps), (OnTerm::Exit(7), vec![Step::Wait]));
    }

    #[test]
    fn others_run_for_ever() {
        for argv in [&["nginx", "-g", "daemon off;"][..], &["sh", "-c", "while true; do :; done"], &[]] {
            assert_eq!(parse(argv), Program::forever(), "{argv:?}");
        }
    }

    #[test]
    fn a_missing_command_is_refused_as_runc_does() {
        let refusal = Program::parse(&["/does-not-exist".to_owned()]).unwrap_err();
        assert!(refusal.contains("no such file or directory"), "{refusal}");
        let refusal = Program::parse(&["does-not-exist".to_owned()]).unwrap_err();
        assert!(refusal.contains("not found in $PATH"), "{refusal}");
    }
}
