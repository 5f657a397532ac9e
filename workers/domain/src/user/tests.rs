mod events;
mod model;
mod rules;
mod throttle;
mod world;
