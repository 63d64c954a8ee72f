//! One manager for the whole program: made once at the start, used from anywhere.

use std::sync::OnceLock;

use crate::{chain::ConfigManager, error::ConfigError, model::Config};

static GLOBAL: OnceLock<ConfigManager> = OnceLock::new();

/// Makes a manager the program's own.
///
/// # Errors
/// [`ConfigError::AlreadyInitialised`] the second time.
pub fn init(manager: ConfigManager) -> Result<&'static ConfigManager, ConfigError> {
    GLOBAL.set(manager).map_err(|_| ConfigError::AlreadyInitialised)?;
    global()
}

/// The program's manager.
///
/// # Errors
/// [`ConfigError::NotInitialised`] before [`init`].
pub fn global() -> Result<&'static ConfigManager, ConfigError> {
    GLOBAL.get().ok_or(ConfigError::NotInitialised)
}

/// [`ConfigManager::get`] of the program's manager.
///
/// # Errors
/// As that, and [`ConfigError::NotInitialised`].
pub async fn get<T: Config>() -> Result<T, ConfigError> {
    global()?.get().await
}

/// [`ConfigManager::get_or_prompt`] of the program's manager.
///
/// # Errors
/// As that, and [`ConfigError::NotInitialised`].
pub async fn get_or_prompt<T: Config>() -> Result<T, ConfigError> {
    global()?.get_or_prompt().await
}

/// [`ConfigManager::set`] of the program's manager.
///
/// # Errors
/// As that, and [`ConfigError::NotInitialised`].
pub async fn set<T: Config>(value: &T) -> Result<crate::chain::Written, ConfigError> {
    global()?.set(value).await
}
