//! Incarnation tokens: clones, restored disks, lost answers.

use proptest::prelude::*;

use super::*;

#[test]
fn clones_and_restored_disks_are_told_from_lost_answers() {
    let first = Token::next(None);
    let second = Token::next(Some(&first));
    let cloned = Token::next(Some(&first));
    assert_eq!(judge(None, None), Verdict::Newest, "a new device");
    assert_eq!(judge(None, Some(&first)), Verdict::Newest, "the Node was made again");
    assert_eq!(judge(Some(&second), Some(&second)), Verdict::Newest);
    assert_eq!(judge(Some(&first), Some(&second)), Verdict::Newest, "confirmed, but not written down");
    assert_eq!(judge(Some(&second), Some(&first)), Verdict::Old);
    assert_eq!(judge(Some(&second), Some(&cloned)), Verdict::Old, "two went on from the same disk");
    assert_eq!(judge(Some(&second), None), Verdict::Old, "wiped, but with its old keys");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,80}") {
        if let Some(token) = Token::parse(&text) {
            prop_assert_eq!(Token::parse(&token.to_string()), Some(token));
        }
    }
}
