//! The global manager: made once, and an error before. A process of its own, since it is one for the process.

#![allow(clippy::unwrap_used)]

use harmony_config::{Config, ConfigError, ConfigManager, Environment};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
struct Small {
    id: u16,
}

#[tokio::test]
async fn it_is_made_once_and_used_from_anywhere() {
    assert!(matches!(harmony_config::get::<Small>().await, Err(ConfigError::NotInitialised)));
    let manager = || {
        let variables = [("HARMONY_CONFIG_Small__ID", "3")];
        ConfigManager::builder().source(Environment::new().with_variables(variables)).build()
    };
    harmony_config::init(manager()).unwrap();
    assert_eq!(harmony_config::get::<Small>().await.unwrap().id, 3);
    assert_eq!(harmony_config::get_or_prompt::<Small>().await.unwrap().id, 3);
    assert!(matches!(harmony_config::set(&Small { id: 1 }).await, Err(ConfigError::NowhereToKeep { .. })));
    assert!(matches!(harmony_config::init(manager()), Err(ConfigError::AlreadyInitialised)));
}
