//! End to end: the real provider and gateway, a real Docker engine, real function containers.

mod attacks;
mod bad_images;
mod deployment;
mod extremes;
mod guests;
mod hostile;
mod later;
mod lifecycle;
mod live;
mod load;
mod logs;
mod page;
mod pool;
mod restart;
mod rights;
mod roots;
mod samples;
mod scaling;
mod sharing;
mod slots;
mod standby;
mod streams;
mod surge;
mod zygotes;
