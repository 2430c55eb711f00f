workers 2
threads 2, 2
preload_app!
