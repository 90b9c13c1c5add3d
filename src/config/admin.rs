//! `[admin]`.

use std::net::SocketAddr;

use super::secret::Secret;
use super::table::Table;

/// What can be looked at from outside.
#[derive(Clone, Debug, Default)]
pub struct AdminConfig {
    /// `listen`; `None`: only the socket in `$RUNTIME_DIRECTORY`.
    pub listen: Option<SocketAddr>,
    /// `token`: what has to be shown over TCP.
    pub token: Option<Secret>,
    /// `show_keys`: whether single invalidations are shown with their values.
    pub show_keys: bool,
}

/// Reads `[admin]`.
pub(super) fn read(table: Option<Table<'_>>) -> AdminConfig {
    const HELP: &str = "write an address and a port: \"127.0.0.1:8317\" or \"[::1]:8317\"";
    let mut config = AdminConfig::default();
    let Some(mut table) = table else { return config };
    let listen = table.entry("listen");
    if let Some(entry) = table.entry("token") {
        config.token = entry.secret();
        let is_empty = config.token.as_ref().and_then(Secret::in_file) == Some("");
        if is_empty {
            entry.problem("`admin.token` is empty", "not a token");
        }
    }
    let has_token = table.has("token");
    if let Some(entry) = listen
        && let Some(text) = entry.text()
    {
        match text.value.parse::<SocketAddr>() {
            Ok(address) if !address.ip().is_loopback() && !has_token => entry.problem_with_help(
                format!(
                    "`admin.listen` needs `admin.token`: {address} can be reached from outside"
                ),
                "not a loopback address",
                "write token = { credential = \"admin\" }, or listen = \"127.0.0.1:8317\"",
            ),
            Ok(address) => config.listen = Some(address),
            Err(_) => {
                let message = format!("`admin.listen` cannot be `{}`", text.value);
                entry.problem_with_help(message, "not an address and a port", HELP);
            }
        }
    }
    if let Some(show) = table.entry("show_keys").and_then(|entry| entry.boolean()) {
        config.show_keys = show;
    }
    table.finish();
    config
}
