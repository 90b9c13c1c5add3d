//! Which keys does a Redis pattern match? The same as in the server, in bounded time.
//!
//! Needed where one pass over the keys serves many patterns, which SCAN's MATCH cannot. Agrees
//! with `stringmatchlen` of Redis' `util.c`, oddities included, which the integration tests
//! compare with a server. Pure.

mod set;

pub use set::GlobSet;

/// Appends `literal` as a pattern that matches exactly it.
pub fn escape(literal: &[u8], out: &mut Vec<u8>) {
    for &byte in literal {
        // `]` and `-` need no backslash outside of a class but do no harm with one inside.
        if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
}

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Glob {
    tokens: Vec<Token>,
    /// The server runs no match at all for the pattern `*`, and so lists the empty key for it;
    /// for any other pattern, `**` too, the empty key does not match.
    matches_empty: bool,
}

#[derive(Clone, Debug)]
enum Token {
    /// Any number of bytes.
    Star,
    /// One byte of the set, a bit for each byte.
    Set(Box<[u64; 4]>),
    /// This byte.
    Byte(u8),
    /// One byte.
    Any,
}

impl Token {
    fn matches(&self, byte: u8) -> bool {
        match self {
            Token::Star => false,
            Token::Any => true,
            Token::Byte(expected) => *expected == byte,
            Token::Set(set) => set[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1,
        }
    }
}

impl Glob {
    /// Compiles a pattern; every text is one.
    pub fn new(pattern: &[u8]) -> Self {
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let Some((&first, tail)) = rest.split_first() {
            rest = tail;
            match first {
                b'*' => {
                    if !matches!(tokens.last(), Some(Token::Star)) {
                        tokens.push(Token::Star);
                    }
                }
                b'?' => tokens.push(Token::Any),
                b'[' => {
                    let (set, behind) = class(rest);
                    tokens.push(Token::Set(Box::new(set)));
                    rest = behind;
                }
                b'\\' => match rest.split_first() {
                    Some((&escaped, behind)) => {
                        tokens.push(Token::Byte(escaped));
                        rest = behind;
                    }
                    None => tokens.push(Token::Byte(b'\\')),
                },
                _ => tokens.push(Token::Byte(first)),
            }
        }
        Glob { tokens, matches_empty: matches!(pattern, b"" | b"*") }
    }

    /// Whether `key` matches. At most `pattern × key` steps: it suffices to go back to the last
    /// star, where the server's older releases tried every way to share a key among all stars.
    pub fn matches(&self, key: &[u8]) -> bool {
        if key.is_empty() {
            return self.matches_empty;
        }
        let (mut token, mut at) = (0, 0);
        // The token behind the last star, and the first byte that the star does not cover.
        let mut star: Option<(usize, usize)> = None;
        while at < key.len() {
            match self.tokens.get(token) {
                Some(Token::Star) => {
                    token += 1;
                    star = Some((token, at));
                }
                Some(one) if one.matches(key[at]) => {
                    token += 1;
                    at += 1;
                }
                _ => match &mut star {
                    Some((behind, from)) => {
                        *from += 1;
                        token = *behind;
                        at = *from;
                    }
                    None => return false,
                },
            }
        }
        self.tokens[token..].iter().all(|token| matches!(token, Token::Star))
    }

    /// The bytes with which every match starts.
    pub fn literal_prefix(&self) -> Vec<u8> {
        let bytes = self.tokens.iter().map_while(|token| match token {
            Token::Byte(byte) => Some(*byte),
            _ => None,
        });
        bytes.collect()
    }
}

/// Reads a class from behind its `[`: the set, and what follows the `]`.
///
/// The server compares C `char`s, whose sign is its platform's: negative from 0x80 on x86, not on
/// ARM. A range from below 0x80 to above it matches here whatever one of the two would match.
fn class(mut rest: &[u8]) -> ([u64; 4], &[u8]) {
    let negated = rest.first() == Some(&b'^');
    if negated {
        rest = &rest[1..];
    }
    // The members as x86 sees them, and as ARM does.
    let (mut signed, mut unsigned) = ([0u64; 4], [0u64; 4]);
    let add = |set: &mut [u64; 4], byte: u8| set[usize::from(byte >> 6)] |= 1 << (byte & 63);
    let behind = loop {
        let (from, to, tail) = match rest {
            // A class that does not end is taken as if it ended with the pattern.
            [] => break rest,
            [b'\\', escaped, tail @ ..] => (*escaped, *escaped, tail),
            [b']', tail @ ..] => break tail,
            // The end may be anything, `]` and `\` too.
            [from, b'-', to, tail @ ..] => (*from, *to, tail),
            [byte, tail @ ..] => (*byte, *byte, tail),
        };
        (from.min(to)..=from.max(to)).for_each(|byte| add(&mut unsigned, byte));
        let (from, to) = (from as i8, to as i8);
        (from.min(to)..=from.max(to)).for_each(|byte| add(&mut signed, byte as u8));
        rest = tail;
    };
    let set = std::array::from_fn(|word| {
        if negated { !(signed[word] & unsigned[word]) } else { signed[word] | unsigned[word] }
    });
    (set, behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, matching: &[&str], others: &[&str]) {
        let glob = Glob::new(pattern.as_bytes());
        for key in matching {
            assert!(glob.matches(key.as_bytes()), "{pattern} should match {key:?}");
        }
        for key in others {
            assert!(!glob.matches(key.as_bytes()), "{pattern} should not match {key:?}");
        }
    }

    #[test]
    fn stars_cover_any_run() {
        check("*", &["", "a", "abc"], &[]);
        check("**", &["a"], &[""]);
        check("a*c", &["ac", "abc", "abcc", "a*c"], &["a", "ab", "cab"]);
        check("*a*b", &["ab", "xaxb", "aabab"], &["ba", "aba"]);
        check("", &[""], &["a"]);
    }

    #[test]
    fn classes_follow_the_server() {
        check("[a-c]", &["a", "c"], &["d", "-", ""]);
        check("[c-a]", &["b"], &["d"]);
        check("[^a]", &["b", "^"], &["a"]);
        check(r"[\]x]", &["]", "x"], &["\\"]);
        check("[]a", &[], &["]a", "a"]);
        check("[^]a", &["]a", "xa"], &["a"]);
        check("[ab", &["a", "b"], &["[ab"]);
        check("[a-]", &["a", "]", "_"], &["-"]);
        check("[", &[], &["["]);
        check("\\", &["\\"], &[]);
        check(r"\*?", &["*a"], &["aa"]);
    }

    #[test]
    fn many_stars_end_soon() {
        let pattern = "*a".repeat(200) + "b";
        check(&pattern, &[], &[&"a".repeat(20_000)]);
    }

    #[test]
    fn an_escaped_literal_matches_itself_alone() {
        for literal in ["plain", "a*b", "[x]", r"a\*", "?", "a-b^c", "]", "\\", "\u{e9}*"] {
            let mut pattern = Vec::new();
            escape(literal.as_bytes(), &mut pattern);
            let glob = Glob::new(&pattern);
            assert!(glob.matches(literal.as_bytes()), "{literal}");
            assert_eq!(glob.literal_prefix(), literal.as_bytes());
            assert!(!glob.matches(format!("{literal}x").as_bytes()), "{literal}");
            assert!(!glob.matches(b"axb"), "{literal}");
        }
    }
}
