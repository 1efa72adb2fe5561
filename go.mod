module iked

go 1.26
