//! The elements of a list: what `{labels[]}` takes from a Postgres array or a JSON array.

use super::filter::Unreadable;

/// Calls `each` for every element that is not NULL.
///
/// # Errors
/// If the value is neither `{a,"b c",NULL}` nor `["a", 1, null]`. Some elements may have been
/// handed out by then.
pub(super) fn for_each(value: &[u8], mut each: impl FnMut(&[u8])) -> Result<(), Unreadable> {
    match value.first() {
        Some(b'{') => postgres_array(value, &mut each),
        // Bounds come first where they are not the usual ones: `[0:1]={a,b}`.
        Some(b'[') => match value.windows(2).position(|pair| pair == b"={") {
            Some(equals) if is_bounds(&value[..equals]) => {
                postgres_array(&value[equals + 1..], &mut each)
            }
            _ => json_array(value, &mut each),
        },
        _ => Err(Unreadable),
    }
}

fn is_bounds(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, b'[' | b']' | b':' | b'-' | b'0'..=b'9'))
}

/// Source of the syntax: PostgreSQL's documentation, "Array Input and Output Syntax". The elements
/// of the inner arrays of a multidimensional one are handed out in order.
fn postgres_array(text: &[u8], each: &mut impl FnMut(&[u8])) -> Result<(), Unreadable> {
    let mut element = Vec::new();
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.checked_sub(1).ok_or(Unreadable)?;
                if depth == 0 {
                    return if at == text.len() { Ok(()) } else { Err(Unreadable) };
                }
            }
            b',' if depth > 0 => {}
            _ if depth == 0 => return Err(Unreadable),
            b'"' => {
                element.clear();
                at = quoted(text, at, &mut element)?;
                if !matches!(text.get(at), Some(b',' | b'}')) {
                    return Err(Unreadable);
                }
                each(&element);
            }
            _ => {
                let rest = &text[at - 1..];
                let length = rest.iter().position(|byte| matches!(byte, b',' | b'}' | b'{' | b'"'));
                let length = length.ok_or(Unreadable)?;
                if !matches!(rest[length], b',' | b'}') {
                    return Err(Unreadable);
                }
                if &rest[..length] != b"NULL" {
                    each(&rest[..length]);
                }
                at += length - 1;
            }
        }
    }
    Err(Unreadable)
}

/// Reads to the closing quote and returns where reading goes on.
fn quoted(text: &[u8], mut at: usize, element: &mut Vec<u8>) -> Result<usize, Unreadable> {
    loop {
        let byte = *text.get(at).ok_or(Unreadable)?;
        at += 1;
        match byte {
            b'"' => return Ok(at),
            b'\\' => {
                element.push(*text.get(at).ok_or(Unreadable)?);
                at += 1;
            }
            _ => element.push(byte),
        }
    }
}

fn json_array(text: &[u8], each: &mut impl FnMut(&[u8])) -> Result<(), Unreadable> {
    let mut text = text.to_vec();
    crate::decode::json_array(&mut text, each).map_err(|_| Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &str, expected: Result<&[&str], Unreadable>) {
        let mut elements = Vec::new();
        let result = for_each(value.as_bytes(), |element| {
            elements.push(String::from_utf8(element.to_vec()).unwrap());
        });
        assert_eq!(result, expected.map(|_| ()));
        if let Ok(expected) = expected {
            assert_eq!(elements, expected);
        }
    }

    #[test]
    fn reads_postgres_arrays() {
        check("{}", Ok(&[]));
        check("{a,NULL,\"NULL\",\"b c\",\"d\\\"\\\\,}\"}", Ok(&["a", "NULL", "b c", "d\"\\,}"]));
        check("{{1,2},{3,4}}", Ok(&["1", "2", "3", "4"]));
        check("[0:1]={7,8}", Ok(&["7", "8"]));
    }

    #[test]
    fn reads_json_arrays() {
        check("[]", Ok(&[]));
        check(r#"["a", 1.50, null, true, "x\n={"]"#, Ok(&["a", "1.50", "true", "x\n={"]));
    }

    #[test]
    fn refuses_what_is_no_list() {
        for value in ["", "x", "{", "{a", "{a}}", "{a}x", r#"{"a": 1}"#, "{a\"b\"}", "[1", "[{}]"] {
            check(value, Err(Unreadable));
        }
    }
}
