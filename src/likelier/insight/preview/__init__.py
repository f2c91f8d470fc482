"""`likelier preview`: what each row trains on, token by token, before anything is trained."""
