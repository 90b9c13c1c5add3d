//! Which of a cluster's hash slots does a key belong to?
//!
//! CRC16 (XMODEM) of the key, or of its hash tag, modulo 16,384, from
//! <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>.

/// How many slots a cluster has.
pub(super) const SLOTS: usize = 16_384;

/// The CRC of each byte; made when this is compiled.
const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// The slot of a whole key.
pub(super) fn hash_slot(key: &[u8]) -> u16 {
    let crc = hash_tag(key)
        .unwrap_or(key)
        .iter()
        .fold(0u16, |crc, byte| crc << 8 ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)]);
    crc % SLOTS as u16
}

/// The slot of a key that is its parts joined.
pub(super) fn slot_of_parts(parts: &[&[u8]]) -> u16 {
    /// Most keys are shorter, and need no allocation.
    const SHORT: usize = 128;
    let length: usize = parts.iter().map(|part| part.len()).sum();
    if length > SHORT {
        return hash_slot(&parts.concat());
    }
    let mut key = [0; SHORT];
    let mut end = 0;
    for part in parts {
        key[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    hash_slot(&key[..end])
}

/// What a cluster hashes instead of the whole key: what is between the first `{` and the first
/// `}` behind it, unless that is empty.
pub(super) fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let behind = &key[memchr::memchr(b'{', key)? + 1..];
    let length = memchr::memchr(b'}', behind)?;
    (length > 0).then(|| &behind[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_the_clusters() {
        // From the cluster specification, and `CLUSTER KEYSLOT` of a server.
        assert_eq!(hash_slot(b"123456789"), 0x31C3);
        assert_eq!(hash_slot(b"foo"), 12_182);
        assert_eq!(hash_slot(b"{foo}bar"), 12_182);
        assert_eq!(hash_slot(b"foo{}{bar}"), 8_363);
        assert_eq!(hash_slot(b"foo{{bar}}zap"), hash_slot(b"{bar"));
    }

    #[test]
    fn a_key_in_parts_is_in_the_slot_of_the_whole() {
        for length in [0, 1, 127, 128, 129, 1000] {
            let value = vec![b'x'; length];
            let whole = [&b"p:{"[..], &value, b"}"].concat();
            assert_eq!(slot_of_parts(&[b"p:{", &value, b"}"]), hash_slot(&whole));
        }
    }
}
