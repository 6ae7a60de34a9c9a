//! Settings that cannot work.

/// A setting that cannot work, found when it is made: says which, its value, and the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {value:?}, but {rule}")]
pub struct ConfigError {
    setting: &'static str,
    value: String,
    rule: &'static str,
}

impl ConfigError {
    pub(crate) fn new(setting: &'static str, value: impl ToString, rule: &'static str) -> Self {
        Self { setting, value: value.to_string(), rule }
    }

    /// The name of the setting.
    #[must_use]
    pub fn setting(&self) -> &'static str {
        self.setting
    }
}
