//! vk-nats
