mod events;
mod fixture;
mod model;
mod passwords;
mod rules;
mod security;
mod throttle;
