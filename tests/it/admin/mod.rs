//! The admin plane over HTTP: one file a topic.

mod audit;
mod authorisation;
mod command_line;
mod gateway;
mod hostile;
mod keys;
mod model_aliases;
mod models;
mod outage;
mod prediction_image;
mod push;
mod replicas;
mod tenants;
mod tokens;
mod uploads;
mod uploads_refused;
mod uploads_rough;
mod uploads_streams;
