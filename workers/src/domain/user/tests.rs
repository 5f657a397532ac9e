mod model;
mod rules;
mod world;
