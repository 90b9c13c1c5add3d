//! Redis' glob patterns.

/// Appends `literal` so that it stands for itself in a pattern.
pub fn escape(literal: &[u8], pattern: &mut Vec<u8>) {
    for &byte in literal {
        if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\') {
            pattern.push(b'\\');
        }
        pattern.push(byte);
    }
}
