//! Hashes of credentials with a secret. Without the secret, a reader of the table cannot test guesses against them.

use std::fmt;

use sha2::{Digest, Sha256};

use super::hash128;
use crate::error::{About, ConfigError};

/// A shorter secret could be guessed.
const MIN_BYTES: usize = 16;

/// The secret of a layer, with which it hashes credentials.
#[derive(Clone)]
pub(crate) struct Secret([u8; 32]);

impl Secret {
    pub(crate) fn new(secret: &[u8]) -> Result<Self, ConfigError> {
        if secret.len() < MIN_BYTES {
            let given = About(format!("{} bytes long", secret.len()));
            let rule = "it must have at least 16 bytes, from a random source";
            return Err(ConfigError::new("key_secret", given, rule));
        }
        Ok(Self(Sha256::digest(secret).into()))
    }

    /// Hashes a hash again, together with the secret. The secret comes first and has a fixed length. Half of the
    /// digest is dropped, which prevents length extension attacks.
    pub(crate) fn hash(&self, kind: u8, hash: &[u8; 16]) -> [u8; 16] {
        hash128(&[&self.0[..], &[kind], hash].concat())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_at_least_16_bytes_and_is_never_shown() {
        let error = Secret::new(b"too short").unwrap_err().to_string();
        assert!(error.contains("9 bytes") && error.contains("at least 16"), "{error}");
        assert!(!error.contains("too short"));
        assert_eq!(format!("{:?}", Secret::new(&[7; 16]).unwrap()), "Secret(..)");
    }

    #[test]
    fn hashes_differ_by_secret_kind_and_value() {
        let [one, other] = [[1; 16], [2; 16]].map(|secret| Secret::new(&secret).unwrap());
        let hash = one.hash(b'a', &[3; 16]);
        assert_eq!(hash, one.hash(b'a', &[3; 16]));
        for different in
            [other.hash(b'a', &[3; 16]), one.hash(b'c', &[3; 16]), one.hash(b'a', &[4; 16])]
        {
            assert_ne!(hash, different);
        }
    }
}
