"""The methods inside trainers of other projects. Knows no engine; a module here imports the one project it is for."""
