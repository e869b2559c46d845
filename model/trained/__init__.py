"""What follows a training: deployed models, extension to a new task, confirmation, a look inside."""
