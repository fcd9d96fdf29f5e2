"""What people see: messages that grow, buttons, modals, and the text of a model made safe to show."""
