mod events;
mod fixture;
mod model;
mod rules;
mod security;
mod throttle;
